package kafka_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/millrace/millrace/adapters/kafka"
	"github.com/millrace/millrace/tests/harness"
)

// realBroker starts an Apache Kafka that asks for TLS and SASL, from the jars in KAFKA_LIBS.
func realBroker(t *testing.T, certificate tls.Certificate) []string {
	t.Helper()
	libs := os.Getenv("KAFKA_LIBS")
	if _, err := exec.LookPath("java"); libs == "" || err != nil {
		t.Skip("needs java, and Kafka's jars in KAFKA_LIBS")
	}
	dir := t.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	require.NoError(t, err)
	store := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})...)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "store.pem"), store, 0o600))
	var ports []int
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		require.NoError(t, l.Close())
	}
	properties := fmt.Sprintf(`process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:%[2]d
listeners=SASL_SSL://127.0.0.1:%[1]d,CONTROLLER://127.0.0.1:%[2]d
advertised.listeners=SASL_SSL://127.0.0.1:%[1]d
listener.security.protocol.map=SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=SASL_SSL
sasl.mechanism.inter.broker.protocol=PLAIN
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username="bob" password="s3cret" user_bob="s3cret";
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location=%[3]s/store.pem
ssl.truststore.type=PEM
ssl.truststore.location=%[3]s/ca.pem
ssl.endpoint.identification.algorithm=
log.dirs=%[3]s/data
offsets.topic.replication.factor=1
`, ports[0], ports[1], dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}), 0o600))
	config := filepath.Join(dir, "server.properties")
	require.NoError(t, os.WriteFile(config, []byte(properties), 0o600))
	out, err := exec.Command("java", "-cp", libs+"/*", "kafka.tools.StorageTool", "format", "--standalone", "-c", config,
		"-t", base64.RawURLEncoding.EncodeToString([]byte("sixteen bytes id")), "--add-scram", "SCRAM-SHA-512=[name=ada,password=s3cret]").CombinedOutput()
	require.NoError(t, err, "%s", out)
	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	broker := exec.Command("java", "-Xmx384m", "-cp", libs+"/*", "kafka.Kafka", config)
	broker.Stdout, broker.Stderr = log, log
	require.NoError(t, broker.Start())
	t.Cleanup(func() {
		_ = broker.Process.Kill()
		_ = broker.Wait()
		if text, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("%s", text)
		}
	})
	return []string{fmt.Sprintf("127.0.0.1:%d", ports[0])}
}

// Encrypted, and logged in by either mechanism; with the wrong password or without encryption nobody gets in.
func TestSecuredBroker(t *testing.T) {
	certificate, ca := harness.Certificate(t)
	t.Run("embedded", func(t *testing.T) {
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.TLS(&tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}),
			kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-512", "ada", "s3cret"), kfake.Superuser("PLAIN", "bob", "s3cret"))
		require.NoError(t, err)
		defer cluster.Close()
		testSecured(t, cluster.ListenAddrs(), ca)
	})
	t.Run("Apache Kafka", func(t *testing.T) { testSecured(t, realBroker(t, certificate), ca) })
}

func testSecured(t *testing.T, brokers []string, ca string) {
	t.Helper()
	with := func(s kafka.Security) kafka.Config {
		return kafka.Config{Brokers: brokers, ClientID: "test", Security: s}
	}
	harness.Eventually(t, func() error {
		return kafka.Ping(with(kafka.Security{TLS: true, CAFile: ca, SASL: "PLAIN", User: "bob", Password: "s3cret"}))
	})
	for _, good := range []kafka.Security{
		{TLS: true, CAFile: ca, SASL: "SCRAM-SHA-512", User: "ada", Password: "s3cret"}, {TLS: true, CAFile: ca, SASL: "PLAIN", User: "bob", Password: "s3cret"},
	} {
		_, err := good.Check()
		require.NoError(t, err)
		name := topic(t, with(good))
		publish(t, with(good), name, 10)
	}
	for name, bad := range map[string]kafka.Security{
		"wrong password":    {TLS: true, CAFile: ca, SASL: "SCRAM-SHA-512", User: "ada", Password: "guess"},
		"nobody":            {TLS: true, CAFile: ca},
		"unknown authority": {TLS: true, SASL: "SCRAM-SHA-512", User: "ada", Password: "s3cret"},
		"unencrypted":       {SASL: "SCRAM-SHA-512", User: "ada", Password: "s3cret"},
	} {
		require.Error(t, kafka.Ping(with(bad)), name)
	}
}
