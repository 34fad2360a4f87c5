// Package settings reads typed settings with defaults from environment variables, and checks them. It reports all wrong settings together, each with
// its name.
package settings

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Error is the error for a wrong setting. Name is the name of the setting.
type Error struct{ Name, Fault string }

func (e *Error) Error() string { return e.Name + ": " + e.Fault }

// Reader reads settings by their names. It collects all errors, which Err returns. It is not safe for concurrent use. Its methods return the default
// if the setting is empty; after reporting an error, they return a value that must not be used.
type Reader struct {
	getenv func(string) string
	faults []error
}

// NewReader makes a Reader. Getenv returns the value of a variable, as os.Getenv does.
func NewReader(getenv func(string) string) *Reader { return &Reader{getenv: getenv} }

// Err returns an *Error for each wrong setting, joined; nil if all settings are correct.
func (s *Reader) Err() error { return errors.Join(s.faults...) }

// Fault reports that a setting is wrong. What says why.
func (s *Reader) Fault(name, what string) { s.faults = append(s.faults, &Error{name, what}) }

// Check reports that a setting is wrong if err is not nil. What says why; the text of err is not reported.
func (s *Reader) Check(name string, err error, what string) {
	if err != nil {
		s.Fault(name, what)
	}
}

// Text returns a setting without the spaces around it.
func (s *Reader) Text(name, otherwise string) string {
	if v := strings.TrimSpace(s.getenv(name)); v != "" {
		return v
	}
	return otherwise
}

// Topics returns a prefix of topic names: 1 to 100 letters, digits, dots, dashes and underscores.
func (s *Reader) Topics(name, otherwise string) string {
	text := s.Text(name, otherwise)
	if !regexp.MustCompile(`^[a-zA-Z0-9._-]{1,100}$`).MatchString(text) {
		s.Fault(name, fmt.Sprintf("%q must be letters, digits, dots, dashes and underscores", text))
	}
	return text
}

// List returns the parts of a comma-separated setting, without the spaces around them and without empty parts.
func (s *Reader) List(name string) (out []string) {
	for part := range strings.SplitSeq(s.getenv(name), ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

// Hosts returns a comma-separated list of host names, which may contain *.
func (s *Reader) Hosts(name string) []string {
	hosts := s.List(name)
	for _, host := range hosts {
		if host != "*" && !regexp.MustCompile(`^[a-zA-Z0-9._:\[\]-]+$`).MatchString(host) {
			s.Fault(name, fmt.Sprintf("%q is neither a host's name nor *", host))
		}
	}
	return hosts
}

// Prefixes returns a comma-separated list of IP networks. A single address becomes a network of one address.
func (s *Reader) Prefixes(name string) (out []netip.Prefix) {
	for _, text := range s.List(name) {
		prefix, err := netip.ParsePrefix(text)
		if addr, addrErr := netip.ParseAddr(text); addrErr == nil {
			prefix, err = netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), nil
		}
		if err != nil {
			s.Fault(name, fmt.Sprintf("%q is neither an IP address nor a network like 10.0.0.0/8", text))
			continue
		}
		out = append(out, prefix.Masked())
	}
	return out
}

// Number returns a whole number from least to most.
func (s *Reader) Number(name string, otherwise, least, most int) int {
	text := s.Text(name, strconv.Itoa(otherwise))
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		s.Fault(name, fmt.Sprintf("%q is not a whole number from %d to %d", text, least, most))
	}
	return n
}

// Duration returns a duration of at least 0, such as 30s.
func (s *Reader) Duration(name string, otherwise time.Duration) time.Duration {
	text := s.Text(name, otherwise.String())
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		s.Fault(name, fmt.Sprintf("%q is not a duration like 30s", text))
	}
	return d
}

// Offset returns a duration that may be negative, such as -5m. Its default is 0.
func (s *Reader) Offset(name string) time.Duration {
	text := s.Text(name, "0s")
	d, err := time.ParseDuration(text)
	if err != nil {
		s.Fault(name, fmt.Sprintf("%q is not a duration like -5m", text))
	}
	return d
}

// OnOff returns a setting that is on or off. It also accepts true, yes and 1, and false, no and 0.
func (s *Reader) OnOff(name string, otherwise bool) bool {
	switch v := strings.ToLower(s.Text(name, "")); v {
	case "":
		return otherwise
	case "on", "true", "1", "yes":
		return true
	case "off", "false", "0", "no":
		return false
	default:
		s.Fault(name, fmt.Sprintf("%q is neither on nor off", v))
		return otherwise
	}
}

// URL returns a URL of http or https, or an empty text.
func (s *Reader) URL(name string) string {
	text := s.Text(name, "")
	u, err := url.Parse(text)
	if text != "" && (err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https")) {
		s.Fault(name, fmt.Sprintf("%q is not a URL of http or https", text))
	}
	return text
}

// Loopback tells whether an address (host:port) is a loopback address. It returns true for an invalid address, which the listener reports.
func Loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return true // the listener reports it
	}
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}
