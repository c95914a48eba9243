package testenv

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// tlsFiles are the paths of PEM files.
type tlsFiles struct{ ca, cert, key string }

// An authority is a CA of a test. Its certificates are good for a day.
type authority struct {
	dir  string // of the files that it writes
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(dir string) (*authority, error) {
	now := time.Now()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return &authority{dir: dir, key: key, cert: &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "levelfs test CA"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}}, err
}

// sign makes a certificate by the template, with a new key, both DER.
func (a *authority) sign(c *x509.Certificate) (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if c.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		return nil, nil, err
	}
	if c.NotAfter.IsZero() {
		c.NotBefore, c.NotAfter = a.cert.NotBefore, a.cert.NotAfter
	}
	c.KeyUsage = x509.KeyUsageDigitalSignature
	if cert, err = x509.CreateCertificate(rand.Reader, c, a.cert, k.Public(), a.key); err != nil {
		return nil, nil, err
	}
	key, err = x509.MarshalPKCS8PrivateKey(k)
	return cert, key, err
}

// issue writes a certificate by the template and its key to NAME.pem and NAME.key.
func (a *authority) issue(name string, c *x509.Certificate) (certFile, keyFile string, err error) {
	cert, key, err := a.sign(c)
	if err != nil {
		return "", "", err
	}
	certFile, keyFile = filepath.Join(a.dir, name+".pem"), filepath.Join(a.dir, name+".key")
	return certFile, keyFile, errors.Join(writePEM(certFile, "CERTIFICATE", cert), writePEM(keyFile, "PRIVATE KEY", key))
}

func writePEM(file, kind string, der []byte) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// writeTLSFiles makes a CA and a server certificate for the loopback address, and
// writes them below dir.
func writeTLSFiles(dir string) (*authority, *tlsFiles, error) {
	a, err := newAuthority(dir)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, a.key.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	f := &tlsFiles{ca: filepath.Join(dir, "ca.pem")}
	if err := writePEM(f.ca, "CERTIFICATE", der); err != nil {
		return nil, nil, err
	}
	f.cert, f.key, err = a.issue("server", &x509.Certificate{
		Subject:     pkix.Name{CommonName: "localhost"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	})
	return a, f, err
}

// ClientCertificate writes a certificate for cn=NAME, from the server's CA, and its
// key.
func (s *Slapd) ClientCertificate(name string) (certFile, keyFile string, err error) {
	return s.ca.issue("client-"+name, &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// HostCertificate is ClientCertificate for cn=NAME,ou=hosts.
func (s *Slapd) HostCertificate(name string) (certFile, keyFile string, err error) {
	return s.ca.issue("host-"+name, &x509.Certificate{
		Subject:     pkix.Name{CommonName: name, OrganizationalUnit: []string{"hosts"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// Certificate is a certificate by the template, from the server's CA, for a server
// that is to be taken for it or not.
func (s *Slapd) Certificate(template *x509.Certificate) (tls.Certificate, error) {
	cert, key, err := s.ca.sign(template)
	if err != nil {
		return tls.Certificate{}, err
	}
	k, err := x509.ParsePKCS8PrivateKey(key)
	return tls.Certificate{Certificate: [][]byte{cert}, PrivateKey: k}, err
}
