package settings

import "time"

// Setting declares a setting of a service: its name, its type, its default. The kit's runtime reads it at the start, and the service asks for it by its
// name.
type Setting struct {
	Name string
	Read func(r *Reader) any // reports a wrong value to r
}

// Text declares a text.
func Text(name, otherwise string) Setting {
	return Setting{name, func(r *Reader) any { return r.Text(name, otherwise) }}
}

// URL declares a URL of http or https, which may be empty.
func URL(name string) Setting {
	return Setting{name, func(r *Reader) any { return r.URL(name) }}
}

// Number declares a whole number from least to most.
func Number(name string, otherwise, least, most int) Setting {
	return Setting{name, func(r *Reader) any { return r.Number(name, otherwise, least, most) }}
}

// Duration declares a time that is not negative, like 30s.
func Duration(name string, otherwise time.Duration) Setting {
	return Setting{name, func(r *Reader) any { return r.Duration(name, otherwise) }}
}

// OnOff declares a setting that is on or off.
func OnOff(name string, otherwise bool) Setting {
	return Setting{name, func(r *Reader) any { return r.OnOff(name, otherwise) }}
}
