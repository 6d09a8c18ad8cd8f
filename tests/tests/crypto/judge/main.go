// Encrypts or decrypts a file with Dapr's implementation of the format dapr.io/enc/v1, to judge ours.
//
//	judge encrypt|decrypt KEYFILE ALGORITHM CIPHER FROM TO
//
// KEYFILE is a PKCS #8 PEM with an RSA key, or 32 bytes in base64.
package main

import (
	"bytes"
	"crypto/aes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/dapr/kit/crypto/aeskw"
	enc "github.com/dapr/kit/schemes/enc/v1"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// wrapper gives the two operations of a key.
func wrapper(file string) (wrap, unwrap func([]byte) ([]byte, error)) {
	text, err := os.ReadFile(file)
	check(err)
	if block, _ := pem.Decode(text); block != nil {
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		check(err)
		key := parsed.(*rsa.PrivateKey)
		return func(plain []byte) ([]byte, error) {
				return rsa.EncryptOAEP(sha256.New(), rand.Reader, &key.PublicKey, plain, nil)
			}, func(wrapped []byte) ([]byte, error) {
				return rsa.DecryptOAEP(sha256.New(), rand.Reader, key, wrapped, nil)
			}
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	check(err)
	block, err := aes.NewCipher(raw)
	check(err)
	return func(plain []byte) ([]byte, error) { return aeskw.Wrap(block, plain) },
		func(wrapped []byte) ([]byte, error) { return aeskw.Unwrap(block, wrapped) }
}

func main() {
	if len(os.Args) != 7 {
		check(fmt.Errorf("usage: judge encrypt|decrypt KEYFILE ALGORITHM CIPHER FROM TO"))
	}
	verb, file, algorithm, cipher := os.Args[1], os.Args[2], os.Args[3], enc.Cipher(os.Args[4])
	wrap, unwrap := wrapper(file)
	from, err := os.ReadFile(os.Args[5])
	check(err)
	var out io.Reader
	if verb == "encrypt" {
		out, err = enc.Encrypt(bytes.NewReader(from), enc.EncryptOptions{
			WrapKeyFn: func(key []byte, _, _ string, _ []byte) ([]byte, []byte, error) {
				wrapped, err := wrap(key)
				return wrapped, nil, err
			},
			Algorithm: enc.KeyAlgorithm(algorithm),
			KeyName:   filepath.Base(file),
			Cipher:    &cipher,
		})
	} else {
		out, err = enc.Decrypt(bytes.NewReader(from), enc.DecryptOptions{
			UnwrapKeyFn: func(wrapped []byte, named, _ string, _, _ []byte) ([]byte, error) {
				if named != algorithm {
					return nil, fmt.Errorf("wrapped with %s", named)
				}
				return unwrap(wrapped)
			},
		})
	}
	check(err)
	result, err := io.ReadAll(out)
	check(err)
	check(os.WriteFile(os.Args[6], result, 0o600))
}
