package runner

import (
	"os"
	"strings"
)

// hostID identifies the host that an instance runs on. A container or a pod is a host. Empty means that the instance counts as a host of its own.
func hostID(over LoadDistribution) string {
	name, err := os.Hostname()
	if over == OverInstances || err != nil {
		return ""
	}
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // Linux: distinguishes hosts of one name
	return strings.TrimSpace(name + " " + string(boot))
}
