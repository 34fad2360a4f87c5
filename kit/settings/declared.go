package settings

import "time"

// Setting declares a setting of a service: its name, its type and its default. Package runner reads the setting at the start, and the service gets
// its value by the name.
type Setting struct {
	Name string
	Read func(r *Reader) any // returns the value; reports a wrong value to r
}

// Text declares a text setting. Otherwise is the default, as in the functions below.
func Text(name, otherwise string) Setting {
	return Setting{name, func(r *Reader) any { return r.Text(name, otherwise) }}
}

// URL declares a setting that is a URL of http or https, or empty.
func URL(name string) Setting {
	return Setting{name, func(r *Reader) any { return r.URL(name) }}
}

// Number declares a setting that is a whole number from least to most.
func Number(name string, otherwise, least, most int) Setting {
	return Setting{name, func(r *Reader) any { return r.Number(name, otherwise, least, most) }}
}

// Duration declares a setting that is a duration of at least 0, such as 30s.
func Duration(name string, otherwise time.Duration) Setting {
	return Setting{name, func(r *Reader) any { return r.Duration(name, otherwise) }}
}

// OnOff declares a setting that is on or off.
func OnOff(name string, otherwise bool) Setting {
	return Setting{name, func(r *Reader) any { return r.OnOff(name, otherwise) }}
}
