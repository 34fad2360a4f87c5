package component

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

// right is a line of the table in docs/guides/security.md, for the user ada.
type right struct {
	resource  sarama.AclResourceType
	prefix    string
	operation sarama.AclOperation
}

// With exactly the rights of docs/guides/security.md on a Kafka with an authorizer, the service works. Each right that is taken away gives one
// line that names the topic or group and the right; when it is given back, the service goes on.
func TestKafkaRights(t *testing.T) {
	kittest.Long(t)
	if os.Getenv("POSTGRES_DSN") == "" {
		t.Skip("needs a database that is not embedded, beside the Kafka that it starts: set POSTGRES_DSN and KAFKA_BROKERS")
	}
	certificate, ca := kittest.Certificate(t)
	brokers := kittest.SecuredKafka(t, certificate, "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer", "super.users=User:bob;User:ANONYMOUS",
		"auto.create.topics.enable=false", "transaction.state.log.replication.factor=1", "transaction.state.log.min.isr=1", "group.initial.rebalance.delay.ms=0")
	super := kafka.Security{TLS: true, CAFile: ca, SASL: "PLAIN", User: "bob", Password: "s3cret"}
	kittest.Eventually(t, func() error { return kafka.Ping(kafka.Config{Brokers: brokers, Security: super}) })
	w := harness.NewEnvironment(t, "KAFKA_BROKERS="+brokers[0], "KAFKA_TLS=on", "KAFKA_CA_FILE="+ca, "KAFKA_SASL=SCRAM-SHA-512", "KAFKA_USER=ada", "KAFKA_PASSWORD=s3cret")
	admin, err := kafka.NewAdmin(kafka.Config{Brokers: brokers, Security: super})
	require.NoError(t, err)
	defer admin.Close()
	own := w.Prefix
	rights := map[string]right{
		"create own topics": {sarama.AclResourceTopic, own, sarama.AclOperationCreate},
		"read own topics":   {sarama.AclResourceTopic, own, sarama.AclOperationRead},
		"write own topics":  {sarama.AclResourceTopic, own, sarama.AclOperationWrite},
		"read own groups":   {sarama.AclResourceGroup, own, sarama.AclOperationRead},
	}
	grant := func(r right) {
		require.NoError(t, admin.CreateACLs([]*sarama.ResourceAcls{{
			Resource: sarama.Resource{ResourceType: r.resource, ResourceName: r.prefix, ResourcePatternType: sarama.AclPatternPrefixed},
			Acls:     []*sarama.Acl{{Principal: "User:ada", Host: "*", Operation: r.operation, PermissionType: sarama.AclPermissionAllow}},
		}}))
	}
	revoke := func(r right) {
		principal := "User:ada"
		_, err := admin.DeleteACL(sarama.AclFilter{
			ResourceType: r.resource, ResourceName: &r.prefix, ResourcePatternTypeFilter: sarama.AclPatternPrefixed, Principal: &principal,
			Operation: r.operation, PermissionType: sarama.AclPermissionAllow,
		}, false)
		require.NoError(t, err)
	}
	for name, r := range rights {
		if name != "create own topics" {
			grant(r)
		}
	}
	i := w.Launch()
	message := func(form string) {
		t.Helper()
		kittest.Eventually(t, func() error {
			if !regexp.MustCompile(form).MatchString(i.Output()) {
				return errors.New("it does not say " + form)
			}
			return nil
		})
	}
	message(`create topic ` + own + `\.events\.orders.*needs .*CREATE.* on topic ` + own + `\.events\.orders`)
	require.False(t, i.Exited())
	i.Kill()
	grant(rights["create own topics"])
	i = w.Start()
	message(`DESCRIBE_CONFIGS.*default is assumed`)
	i.Stock(1000, "MUG-01")
	confirmed := func() {
		t.Helper()
		require.Equal(t, "confirmed", i.Decided(i.Place("pm_ok", "MUG-01")).Status)
	}
	confirmed()
	for name, line := range map[string]string{
		"write own topics": `needs WRITE on topic ` + own + `\.`,
		"read own topics":  `needs READ on topic ` + own + `\.`,
		"read own groups":  `needs READ on group ` + own + `\.`,
	} {
		t.Log(name)
		revoke(rights[name])
		id := i.Place("pm_ok", "MUG-01")
		message(line)
		grant(rights[name])
		i.Decided(id) // or cancelled by a deadline
		noneSuspended(t, i)
		confirmed()
	}
	// Without DESCRIBE_CONFIGS the retention of topics cannot be compared with INBOX_RETENTION: a line says so, and the service works. With the
	// right it is compared.
	month := fmt.Sprint((30 * 24 * time.Hour).Milliseconds())
	topic := own + ".events.payments"
	require.NoError(t, admin.AlterConfig(sarama.TopicResource, topic, map[string]*string{"retention.ms": &month}, false))
	code, _ := i.Terminate()
	require.Zero(t, code)
	i.Restart()
	message(`missing right DESCRIBE_CONFIGS to compare INBOX_RETENTION with the retention\.ms of topics.*` + regexp.QuoteMeta(topic))
	confirmed()
	code, _ = i.Terminate()
	require.Zero(t, code)
	grant(right{sarama.AclResourceTopic, own, sarama.AclOperationDescribeConfigs})
	i.Again()
	require.Equal(t, 1, i.Wait(), i.Output())
	require.Contains(t, i.Output(), "INBOX_RETENTION: 336h0m0s is shorter than topic "+topic+" keeps messages (retention.ms: 720h0m0s)")
	week := fmt.Sprint((7 * 24 * time.Hour).Milliseconds())
	require.NoError(t, admin.AlterConfig(sarama.TopicResource, topic, map[string]*string{"retention.ms": &week}, false))
	i.Restart()
	confirmed()
	if i.Exited() {
		t.Error(fmt.Sprint("it exited:\n", i.Output()))
	}
}
