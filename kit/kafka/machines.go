package kafka

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/IBM/sarama"
)

// machines is a sarama.BalanceStrategy that spreads partitions over machines, not over members: of those on one machine, the one that has
// been there for the longest gets what the machine gets, and the others stand by.
type machines struct {
	self   MemberMetadata
	ranges sarama.BalanceStrategy
}

// MemberMetadata is what a member says of itself to whoever balances.
type MemberMetadata struct {
	Host  string    `json:"machine"` // empty: one of its own
	Since time.Time `json:"since"`   // from when on it has been there
}

func newMachines(self MemberMetadata) sarama.BalanceStrategy {
	return machines{self, sarama.NewBalanceStrategyRange()}
}

// Name implements sarama.BalanceStrategy.
func (machines) Name() string { return "millrace-machines" }

// Plan implements sarama.BalanceStrategy. By ranges among those that work, in the order of their ids, which begin with the client's:
// what has the same key comes to one, whichever topic it comes by.
func (m machines) Plan(members map[string]sarama.ConsumerGroupMemberMetadata, topics map[string][]int32) (sarama.BalanceStrategyPlan, error) {
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

// working are the members that get partitions of a topic: one a machine. One that does not say where it is is a machine of its own.
func working(members map[string]sarama.ConsumerGroupMemberMetadata, topic string) map[string]sarama.ConsumerGroupMemberMetadata {
	type candidate struct {
		id    string
		since time.Time
	}
	first := map[string]candidate{} // by machine
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
func (m machines) SubscriptionUserData([]string) ([]byte, error) { return json.Marshal(m.self) }

// AssignmentData implements sarama.BalanceStrategy.
func (machines) AssignmentData(string, map[string][]int32, int32) ([]byte, error) { return nil, nil }
