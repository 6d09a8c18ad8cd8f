module pillion/tests/crypto/judge

go 1.24.3

require github.com/dapr/kit v0.16.1

require (
	golang.org/x/crypto v0.39.0 // indirect
	golang.org/x/sys v0.33.0 // indirect
)
