package service

import (
	"github.com/millrace/millrace/kit/runner"
	"github.com/millrace/millrace/kit/settings"
)

// config holds this service's own settings. .env.example lists them with those of the kit.
type config struct {
	outside
}

// read reads the settings. The reader collects what is wrong and reports it by the name of the setting.
func (c *config) read(r *settings.Reader, kit runner.Config) {
	c.outside.read(r, kit)
}
