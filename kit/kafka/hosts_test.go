package kafka

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Each partition of each topic is assigned to one member. Hosts get equal shares. Of the members of a host that subscribe to a topic, only the member
// whose instance started first gets partitions.
func TestHosts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		topics := map[string][]int32{}
		for n := range rapid.IntRange(1, 3).Draw(t, "topics") {
			for p := range rapid.Int32Range(1, 9).Draw(t, "partitions") {
				topics[fmt.Sprint("topic-", n)] = append(topics[fmt.Sprint("topic-", n)], p)
			}
		}
		members := map[string]sarama.ConsumerGroupMemberMetadata{}
		said := map[string]MemberMetadata{}
		for n := range rapid.IntRange(1, 8).Draw(t, "members") {
			id, p := fmt.Sprint("member-", n), MemberMetadata{}
			if host := rapid.IntRange(0, 3).Draw(t, "host"); host > 0 {
				p = MemberMetadata{fmt.Sprint("host-", host), time.Unix(rapid.Int64Range(0, 5).Draw(t, "since"), 0).UTC()}
			}
			data, err := newHosts(p).(sarama.SubscriptionUserDataBalanceStrategy).SubscriptionUserData(nil)
			require.NoError(t, err)
			if rapid.IntRange(0, 9).Draw(t, "says nothing of itself") == 0 {
				data, p = []byte("?"), MemberMetadata{}
			}
			wants := []string{"topic-0"}
			for topic := range topics {
				if topic != "topic-0" && rapid.Bool().Draw(t, "wants "+topic) {
					wants = append(wants, topic)
				}
			}
			if p.Host == "" {
				p.Host = id
			}
			members[id], said[id] = sarama.ConsumerGroupMemberMetadata{Topics: wants, UserData: data}, p
		}
		plan, err := newHosts(MemberMetadata{}).Plan(members, topics)
		require.NoError(t, err)
		for topic, partitions := range topics {
			byHost, given := map[string]int{}, map[int32]bool{}
			for id, m := range members {
				if slices.Contains(m.Topics, topic) {
					byHost[said[id].Host] = 0
				}
			}
			if len(byHost) == 0 {
				continue
			}
			for id, of := range plan {
				for _, p := range of[topic] {
					require.False(t, given[p], "%s/%d is given twice", topic, p)
					given[p] = true
					byHost[said[id].Host]++
				}
				for other := range members {
					if len(of[topic]) > 0 && other != id && said[other].Host == said[id].Host {
						require.Empty(t, plan[other][topic], "two of %s work", said[id].Host)
						if slices.Contains(members[other].Topics, topic) {
							require.False(t, said[other].Since.Before(said[id].Since), "%s was there before %s", other, id)
						}
					}
				}
			}
			require.Len(t, given, len(partitions), topic)
			for host, n := range byHost {
				require.InDelta(t, float64(len(partitions))/float64(len(byHost)), n, 0.99, host)
			}
		}
	})
}
