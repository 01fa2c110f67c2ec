package images

import (
	"crypto/x509"
	"fmt"
	"sync"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// believeMozilla has TLS believe the certificates that Mozilla does where the guest has no list of its own. It reads them all, which most
// requests have no need of: package x509roots/fallback would read them each time that the program starts.
var believeMozilla = sync.OnceFunc(func() {
	pool := x509.NewCertPool()
	for root := range bundle.Roots() {
		certificate, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			panic(fmt.Sprintf("built-in certificates: %v", err)) // a test reads them
		}
		if root.Constraint == nil {
			pool.AddCert(certificate)
		} else {
			pool.AddCertWithConstraint(certificate, root.Constraint)
		}
	}
	x509.SetFallbackRoots(pool)
})
