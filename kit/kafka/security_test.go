package kafka_test

import (
	"crypto/tls"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/millrace/millrace/kit/kafka"
	"github.com/millrace/millrace/kit/kittest"
)

// Clients connect with TLS and either SASL mechanism. With a wrong password or without TLS they cannot connect.
func TestSecuredBroker(t *testing.T) {
	certificate, ca := kittest.Certificate(t)
	t.Run("embedded", func(t *testing.T) {
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.TLS(&tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}),
			kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-512", "ada", "s3cret"), kfake.Superuser("PLAIN", "bob", "s3cret"))
		require.NoError(t, err)
		defer cluster.Close()
		testSecured(t, cluster.ListenAddrs(), ca)
	})
	t.Run("Apache Kafka", func(t *testing.T) { testSecured(t, kittest.SecuredKafka(t, certificate), ca) })
}

func testSecured(t *testing.T, brokers []string, ca string) {
	t.Helper()
	with := func(s kafka.Security) kafka.Config {
		return kafka.Config{Brokers: brokers, ClientID: "test", Security: s}
	}
	kittest.Eventually(t, func() error {
		return kafka.Ping(t.Context(), with(kafka.Security{TLS: true, CAFile: ca, SASL: "PLAIN", User: "bob", Password: "s3cret"}))
	})
	for _, good := range []kafka.Security{
		{TLS: true, CAFile: ca, SASL: "SCRAM-SHA-512", User: "ada", Password: "s3cret"}, {TLS: true, CAFile: ca, SASL: "PLAIN", User: "bob", Password: "s3cret"},
	} {
		_, err := good.Check()
		require.NoError(t, err)
		name := topic(t, with(good))
		produce(t, with(good), name, 10, 10)
	}
	for name, bad := range map[string]kafka.Security{
		"wrong password":    {TLS: true, CAFile: ca, SASL: "SCRAM-SHA-512", User: "ada", Password: "guess"},
		"nobody":            {TLS: true, CAFile: ca},
		"unknown authority": {TLS: true, SASL: "SCRAM-SHA-512", User: "ada", Password: "s3cret"},
		"unencrypted":       {SASL: "SCRAM-SHA-512", User: "ada", Password: "s3cret"},
	} {
		require.Error(t, kafka.Ping(t.Context(), with(bad)), name)
	}
}
