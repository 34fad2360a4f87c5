package kafka

import (
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/IBM/sarama"
	"github.com/xdg-go/scram"
)

// Security is the encryption and authentication of connections. The zero value uses neither.
type Security struct {
	TLS               bool
	CAFile            string // PEM; empty: the system's certificate authorities
	CertFile, KeyFile string // client certificate in PEM; empty: none
	SASL              string // SCRAM-SHA-512, PLAIN or empty
	User, Password    string
}

// Check returns the first fault, and the setting that has it, without its prefix KAFKA_: "SASL", "CA_FILE". It reads the certificate files.
func (s Security) Check() (field string, err error) {
	switch {
	case s.SASL != "" && s.SASL != sarama.SASLTypeSCRAMSHA512 && s.SASL != sarama.SASLTypePlaintext:
		return "SASL", errors.New("must be SCRAM-SHA-512 or PLAIN")
	case s.SASL == "" && (s.User != "" || s.Password != ""):
		return "SASL", errors.New("must be set beside KAFKA_USER and KAFKA_PASSWORD: SCRAM-SHA-512 or PLAIN")
	case s.SASL != "" && (s.User == "" || s.Password == ""):
		return "USER", errors.New("and KAFKA_PASSWORD must be set beside KAFKA_SASL")
	case s.SASL == sarama.SASLTypePlaintext && !s.TLS:
		return "SASL", errors.New("PLAIN would send the password unencrypted: set KAFKA_TLS=on")
	case !s.TLS && s.CAFile+s.CertFile+s.KeyFile != "":
		return "TLS", errors.New("must be on beside KAFKA_CA_FILE, KAFKA_CERT_FILE and KAFKA_KEY_FILE")
	case (s.CertFile == "") != (s.KeyFile == ""):
		return "CERT_FILE", errors.New("and KAFKA_KEY_FILE are set together, or neither")
	}
	if _, field, err := s.tls(); err != nil {
		return field, err
	}
	return "", nil
}

func (s Security) tls() (c *tls.Config, field string, err error) {
	c = &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CAFile != "" {
		pem, err := os.ReadFile(s.CAFile)
		if err != nil {
			return nil, "CA_FILE", err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, "CA_FILE", fmt.Errorf("%s holds no certificate in PEM", s.CAFile)
		}
	}
	if s.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
		if err != nil {
			return nil, "CERT_FILE", err
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c, "", nil
}

// apply puts the security settings, which Check has accepted, into sarama's configuration.
func (s Security) apply(c *sarama.Config) {
	if s.TLS {
		if config, _, err := s.tls(); err == nil { // Check has read the files before
			c.Net.TLS.Enable, c.Net.TLS.Config = true, config
		} else {
			c.Net.TLS.Enable = true // the connection then fails with the system's certificate authorities
		}
	}
	if s.SASL == "" {
		return
	}
	c.Net.SASL.Enable, c.Net.SASL.User, c.Net.SASL.Password = true, s.User, s.Password
	c.Net.SASL.Mechanism = sarama.SASLMechanism(s.SASL)
	if s.SASL == sarama.SASLTypeSCRAMSHA512 {
		c.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{} }
	}
}

// scramClient implements sarama.SCRAMClient (RFC 5802).
type scramClient struct{ conversation *scram.ClientConversation }

func (c *scramClient) Begin(user, password, authzID string) error {
	client, err := scram.HashGeneratorFcn(sha512.New).NewClient(user, password, authzID)
	if err != nil {
		return err
	}
	c.conversation = client.NewConversation()
	return nil
}

func (c *scramClient) Step(challenge string) (string, error) { return c.conversation.Step(challenge) }

func (c *scramClient) Done() bool { return c.conversation.Done() }
