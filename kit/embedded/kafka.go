//go:build !noembedded

package embedded

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/twmb/franz-go/pkg/kfake"
)

// Kafka is a broker in this process. It speaks Kafka's protocol on loopback and stores its log on disk.
type Kafka struct {
	Brokers []string
	cluster *kfake.Cluster
}

// StartKafka starts a broker with its data below dir. It listens on the port, or on any free port if port is 0.
func StartKafka(dir string, port int) (*Kafka, error) {
	data := filepath.Join(dir, "kafka")
	if err := os.MkdirAll(data, 0o750); err != nil {
		return nil, fmt.Errorf("embedded Kafka: %w", err)
	}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.DataDir(data), kfake.DefaultNumPartitions(12), kfake.Ports(port))
	if err != nil {
		return nil, fmt.Errorf("embedded Kafka in %s: %w", data, err)
	}
	return &Kafka{Brokers: cluster.ListenAddrs(), cluster: cluster}, nil
}

// Stop closes the broker.
func (k *Kafka) Stop() { k.cluster.Close() }
