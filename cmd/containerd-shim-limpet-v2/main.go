// Command containerd-shim-limpet-v2 is the shim that containerd starts for io.containerd.limpet.v2.
package main

import (
	"os"

	"github.com/limpet-run/limpet/runtime/anchor"
	"github.com/limpet-run/limpet/shim"
)

func main() {
	anchor.MainIfAsked()
	os.Exit(shim.Main(os.Args[1:], shim.MicroVMs{}))
}
