package kittest

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
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// SecuredKafka starts an Apache Kafka that requires TLS and SASL, and returns its address. The user bob signs in with PLAIN, ada with SCRAM-SHA-512, both with
// the password s3cret. Properties are lines that are added to the configuration. The test is skipped without java and the jars in KAFKA_LIBS.
func SecuredKafka(t *testing.T, certificate tls.Certificate, properties ...string) []string {
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
	text := fmt.Sprintf(`process.roles=broker,controller
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
	require.NoError(t, os.WriteFile(config, []byte(text+strings.Join(properties, "\n")+"\n"), 0o600))
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
		if said, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("%s", said[max(0, len(said)-5000):])
		}
	})
	return []string{fmt.Sprintf("127.0.0.1:%d", ports[0])}
}
