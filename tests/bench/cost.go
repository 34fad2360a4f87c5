package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/IBM/sarama"
)

// costs are what the processes of this machine have used of its cores so far, by part. On systems without /proc it is only that of the service.
func (f *fleet) costs() map[string]time.Duration {
	used := map[string]time.Duration{"service": cpuTime()}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is good
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// pid (name) state ppid … utime is the 14th field, stime the 15th, in ticks of 10 ms; then those of children that have ended.
		name, rest, ok := strings.Cut(string(text), ") ")
		pid, name, _ := strings.Cut(name, " (")
		part := map[string]string{"postgres": "PostgreSQL", "java": "Kafka"}[name]
		if pid == strconv.Itoa(f.outside.command.Process.Pid) {
			part = "clients and sandbox"
		}
		fields := strings.Fields(rest)
		if !ok || part == "" || len(fields) < 15 {
			continue
		}
		for _, field := range fields[11:13] {
			if ticks, err := strconv.Atoi(field); err == nil {
				used[part] += time.Duration(ticks) * 10 * time.Millisecond
			}
		}
	}
	return used
}

// memory is what this process has of the computer's memory now, in bytes; 0 on systems without /proc.
func memory() (bytes float64) {
	text, err := os.ReadFile("/proc/self/statm") // in pages: all, resident, …
	if err != nil {
		return 0
	}
	if fields := strings.Fields(string(text)); len(fields) > 1 {
		pages, _ := strconv.Atoi(fields[1]) // 0 shows
		bytes = float64(pages * os.Getpagesize())
	}
	return bytes
}

// since is what was used between the two.
func since(before, used map[string]time.Duration) map[string]time.Duration {
	for part := range used {
		used[part] -= before[part]
	}
	return used
}

// stored is what PostgreSQL has written ahead of everything, what the database takes, and what the topics take, in bytes.
type stored struct{ wal, database, topics float64 }

func storedIn(ctx context.Context, g *environment) (s stored) {
	// What cannot be read is 0, which shows.
	_ = g.db.QueryRowxContext(ctx, `SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8, pg_database_size(current_database())::float8`).Scan(&s.wal, &s.database)
	s.topics, _ = topicsOf(g)
	return s
}

// topicsOf is how many bytes the logs of this run's topics hold.
func topicsOf(g *environment) (bytes float64, err error) {
	admin, err := sarama.NewClusterAdmin(g.brokers, sarama.NewConfig())
	if err != nil {
		return 0, err
	}
	defer admin.Close()
	brokers, _, err := admin.DescribeCluster()
	if err != nil {
		return 0, err
	}
	var ids []int32
	for _, b := range brokers {
		ids = append(ids, b.ID())
	}
	dirs, err := admin.DescribeLogDirs(ids)
	for _, all := range dirs {
		for _, dir := range all {
			for _, topic := range dir.Topics {
				for _, p := range topic.Partitions {
					if strings.HasPrefix(topic.Topic, "bench"+g.stamp) {
						bytes += float64(p.Size)
					}
				}
			}
		}
	}
	return bytes, err
}
