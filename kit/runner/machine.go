package runner

import (
	"os"
	"strings"
)

// machine says where an instance is to those who divide the work: empty for a machine of its own. A container, or a pod, is a machine.
func machine(over Distribution) string {
	host, err := os.Hostname()
	if over == OverInstances || err != nil {
		return ""
	}
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // Linux: parts machines of one name
	return strings.TrimSpace(host + " " + string(boot))
}
