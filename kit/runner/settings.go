package runner

import (
	"fmt"
	"time"
)

// setting returns one of the service's own settings. It panics if the service has not declared it with this type: that is a mistake in the program,
// which shows at every start.
func setting[T any](k *Kit, name string) (value T) {
	if k.instance == nil {
		return value
	}
	declared, there := k.instance.config.Own[name]
	if !there {
		panic(fmt.Sprintf("the setting %s is not in Settings of the service", name))
	}
	value, ok := declared.(T)
	if !ok {
		panic(fmt.Sprintf("the setting %s is declared as %T, not as %T", name, declared, value))
	}
	return value
}

// Text returns one of the service's own settings, declared by settings.Text or settings.URL. Like Number, Duration and On it returns the zero value
// without an instance, and panics if Service.Settings does not declare the setting with this type.
func (k *Kit) Text(name string) string { return setting[string](k, name) }

// Number returns one of the service's own settings, declared as a number.
func (k *Kit) Number(name string) int { return setting[int](k, name) }

// Duration returns one of the service's own settings, declared as a duration.
func (k *Kit) Duration(name string) time.Duration { return setting[time.Duration](k, name) }

// On returns one of the service's own settings, declared by settings.OnOff.
func (k *Kit) On(name string) bool { return setting[bool](k, name) }
