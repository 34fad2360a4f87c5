package component

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
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
	kittest.Eventually(t, func() error { return kafka.Ping(t.Context(), kafka.Config{Brokers: brokers, Security: super}) })
	w := harness.NewEnvironment(t, "KAFKA_BROKERS="+brokers[0], "KAFKA_TLS=on", "KAFKA_CA_FILE="+ca, "KAFKA_SASL=SCRAM-SHA-512", "KAFKA_USER=ada", "KAFKA_PASSWORD=s3cret")
	admin, err := kafka.NewAdmin(kafka.Config{Brokers: brokers, Security: super})
	require.NoError(t, err)
	defer admin.Close()
	own, warehouse := w.Prefix, "warehouse"+w.Prefix
	w.Set("WAREHOUSE_TOPICS", warehouse)
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
	says := func(form string) {
		t.Helper()
		kittest.Eventually(t, func() error {
			if !regexp.MustCompile(form).MatchString(i.Output()) {
				return errors.New("it does not say " + form)
			}
			return nil
		})
	}
	says(`create topic ` + own + `\.events\.orders.*needs .*CREATE.* on topic ` + own + `\.events\.orders`)
	require.False(t, i.Exited())
	i.Kill()
	grant(rights["create own topics"])
	i = w.Launch()
	// The topics of the warehouse do not exist, and this service may not create them. It works, and a return waits for its parcel.
	parcels := warehouse + ".events.parcels"
	namesMissing(t, i, parcels)
	says(`cannot create topics of external services.*` + regexp.QuoteMeta(parcels))
	says(`DESCRIBE_CONFIGS.*default is assumed`)
	i.Stock(1000, "MUG-01")
	confirmed := func() (id string) {
		t.Helper()
		id = i.Place("pm_ok", "MUG-01")
		require.Equal(t, "confirmed", i.Decided(id).Status)
		return id
	}
	returned := confirmed()
	response := i.Do(http.MethodPost, "/v1/orders/"+returned+"/return", `{"lines":[{"sku":"MUG-01","quantity":1}]}`)
	require.Equal(t, http.StatusAccepted, response.Status, response.Body)
	returning(t, i, returned, "wait for parcel")
	for _, topic := range []string{parcels, warehouse + ".events.deliveries"} {
		require.NoError(t, admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: 1, ReplicationFactor: 1}, false))
	}
	namesMissing(t, i, parcels) // because it may not be read
	grant(right{sarama.AclResourceTopic, warehouse, sarama.AclOperationRead})
	noneMissing(t, i)
	arrived := message.NewMessage("p1", []byte(`{"parcel_number":"R-`+returned+`"}`))
	arrived.Metadata = message.Metadata{"ce_specversion": "1.0", "ce_id": "p1", "ce_type": "parcel.arrived", "ce_source": "/warehouse"}
	sender := kafka.NewProducer(kafka.Config{Brokers: brokers, Security: super}, func() int { return kafka.DefaultLimit }, time.Now)
	defer sender.Close()
	require.Equal(t, []error{nil}, sender.Send(t.Context(), []string{parcels}, []*message.Message{arrived}))
	returning(t, i, returned, "inspect goods")
	for name, line := range map[string]string{
		"write own topics": `needs WRITE on topic ` + own + `\.`,
		"read own topics":  `needs READ on topic ` + own + `\.`,
		"read own groups":  `needs READ on group ` + own + `\.`,
	} {
		t.Log(name)
		revoke(rights[name])
		id := i.Place("pm_ok", "MUG-01")
		says(line)
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
	says(`missing right DESCRIBE_CONFIGS to compare INBOX_RETENTION with the retention\.ms of topics.*` + regexp.QuoteMeta(topic))
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
