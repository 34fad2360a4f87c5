package kafka_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/millrace/millrace/adapters/kafka"
)

// authority makes a certificate for 127.0.0.1, and the file of who signed it.
func authority(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

// Encrypted, and logged in by either mechanism; with the wrong password or without encryption nobody gets in.
func TestSecuredBroker(t *testing.T) {
	certificate, ca := authority(t)
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.TLS(&tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}),
		kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-512", "ada", "s3cret"), kfake.Superuser("PLAIN", "bob", "s3cret"))
	require.NoError(t, err)
	defer cluster.Close()
	with := func(s kafka.Security) kafka.Config {
		return kafka.Config{Brokers: cluster.ListenAddrs(), ClientID: "test", Security: s}
	}
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
