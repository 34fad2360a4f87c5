package kafka

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/IBM/sarama"
)

// hosts is a sarama.BalanceStrategy that assigns partitions to hosts instead of members. Of the members on a host, the member whose instance started
// first gets the partitions, and the other members are on standby.
type hosts struct {
	self   MemberMetadata
	ranges sarama.BalanceStrategy
}

// MemberMetadata is the metadata that a member of a consumer group sends to the leader of its group.
type MemberMetadata struct {
	Host  string    `json:"machine"` // the name of the host; empty: the member counts as a host of its own
	Since time.Time `json:"since"`   // when the instance started
}

func newHosts(self MemberMetadata) sarama.BalanceStrategy {
	return hosts{self, sarama.NewBalanceStrategyRange()}
}

// Name implements sarama.BalanceStrategy.
func (hosts) Name() string { return "millrace-machines" }

// Plan implements sarama.BalanceStrategy. It assigns ranges of partitions to the working members in the order of their ids, which begin with the
// client id. So the same member gets the messages of a key on all topics.
func (m hosts) Plan(members map[string]sarama.ConsumerGroupMemberMetadata, topics map[string][]int32) (sarama.BalanceStrategyPlan, error) {
	plan := sarama.BalanceStrategyPlan{}
	for topic, partitions := range topics {
		part, err := m.ranges.Plan(working(members, topic), map[string][]int32{topic: partitions})
		if err != nil {
			return nil, err
		}
		for id, of := range part {
			for topic, partitions := range of {
				plan.Add(id, topic, partitions...)
			}
		}
	}
	return plan, nil
}

// working returns the members that get partitions of a topic: one for each host. A member without a host counts as a host of its own.
func working(members map[string]sarama.ConsumerGroupMemberMetadata, topic string) map[string]sarama.ConsumerGroupMemberMetadata {
	type candidate struct {
		id    string
		since time.Time
	}
	first := map[string]candidate{} // by host
	for _, id := range slices.Sorted(maps.Keys(members)) {
		if !slices.Contains(members[id].Topics, topic) {
			continue
		}
		p := MemberMetadata{}
		if json.Unmarshal(members[id].UserData, &p) != nil || p.Host == "" {
			p.Host = "member " + id
		}
		if best, ok := first[p.Host]; !ok || p.Since.Before(best.since) {
			first[p.Host] = candidate{id, p.Since}
		}
	}
	out := map[string]sarama.ConsumerGroupMemberMetadata{}
	for _, c := range first {
		out[c.id] = members[c.id]
	}
	return out
}

// SubscriptionUserData implements sarama.SubscriptionUserDataBalanceStrategy.
func (m hosts) SubscriptionUserData([]string) ([]byte, error) { return json.Marshal(m.self) }

// AssignmentData implements sarama.BalanceStrategy.
func (hosts) AssignmentData(string, map[string][]int32, int32) ([]byte, error) { return nil, nil }
