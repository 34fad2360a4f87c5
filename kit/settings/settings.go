// Package settings reads settings from environment variables: typed, with defaults, and checked. All faults are reported together, and
// each names its setting.
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

// Error is a wrong setting, by its name.
type Error struct{ Name, Fault string }

func (e *Error) Error() string { return e.Name + ": " + e.Fault }

// Reader reads settings by their names. It collects all faults, so that they are reported together.
type Reader struct {
	getenv func(string) string
	faults []error
}

// NewReader makes a reader of a function like os.Getenv.
func NewReader(getenv func(string) string) *Reader { return &Reader{getenv: getenv} }

// Err joins an *Error for each setting that is wrong.
func (s *Reader) Err() error { return errors.Join(s.faults...) }

// Fault reports that a setting is wrong.
func (s *Reader) Fault(name, what string) { s.faults = append(s.faults, &Error{name, what}) }

// Check reports that a setting is wrong if err is not nil; what is the sentence.
func (s *Reader) Check(name string, err error, what string) {
	if err != nil {
		s.Fault(name, what)
	}
}

// Text is a setting without the blanks around it.
func (s *Reader) Text(name, otherwise string) string {
	if v := strings.TrimSpace(s.getenv(name)); v != "" {
		return v
	}
	return otherwise
}

// Topics is a prefix of topic names.
func (s *Reader) Topics(name, otherwise string) string {
	text := s.Text(name, otherwise)
	if !regexp.MustCompile(`^[a-zA-Z0-9._-]{1,100}$`).MatchString(text) {
		s.Fault(name, fmt.Sprintf("%q must be letters, digits, dots, dashes and underscores", text))
	}
	return text
}

// List is a comma-separated setting.
func (s *Reader) List(name string) (out []string) {
	for part := range strings.SplitSeq(s.getenv(name), ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

// Hosts are names of hosts, or *.
func (s *Reader) Hosts(name string) []string {
	hosts := s.List(name)
	for _, host := range hosts {
		if host != "*" && !regexp.MustCompile(`^[a-zA-Z0-9._:\[\]-]+$`).MatchString(host) {
			s.Fault(name, fmt.Sprintf("%q is neither a host's name nor *", host))
		}
	}
	return hosts
}

// Prefixes are networks, or single addresses.
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

// Number is a whole number from least to most.
func (s *Reader) Number(name string, otherwise, least, most int) int {
	text := s.Text(name, strconv.Itoa(otherwise))
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		s.Fault(name, fmt.Sprintf("%q is not a whole number from %d to %d", text, least, most))
	}
	return n
}

// Duration is a time that is not negative, like 30s.
func (s *Reader) Duration(name string, otherwise time.Duration) time.Duration {
	text := s.Text(name, otherwise.String())
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		s.Fault(name, fmt.Sprintf("%q is not a duration like 30s", text))
	}
	return d
}

// Offset is a duration that may be negative.
func (s *Reader) Offset(name string) time.Duration {
	text := s.Text(name, "0s")
	d, err := time.ParseDuration(text)
	if err != nil {
		s.Fault(name, fmt.Sprintf("%q is not a duration like -5m", text))
	}
	return d
}

// OnOff is on or off; true, yes and 1, false, no and 0 are accepted too.
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

// URL is a URL of http or https, or empty.
func (s *Reader) URL(name string) string {
	text := s.Text(name, "")
	u, err := url.Parse(text)
	if text != "" && (err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https")) {
		s.Fault(name, fmt.Sprintf("%q is not a URL of http or https", text))
	}
	return text
}

// Loopback tells whether an address, host:port, is a loopback address. An invalid address counts as one, because it is reported already.
func Loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return true // said already
	}
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}
