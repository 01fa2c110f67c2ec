package shim

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// The verbs of the binary. containerd calls start and delete; start calls serve, and the service of a pool calls spare.
const (
	verbStart  = "start"
	verbDelete = "delete"
	verbServe  = "serve"
	verbSpare  = "spare"
)

// command is a call of the binary. Flags that containerd passes and limpet has no use for are accepted and forgotten.
type command struct {
	verb          string
	namespace, id string
	bundle        string // absolute path
	address       string // of containerd's gRPC socket; it is part of the name of a shim's socket
	socket        string // serve only: path of the socket that was passed as a descriptor
	ttrpcAddress  string // of containerd's ttrpc socket, which takes events
	stages        stages // what was done before, for the sandbox's trace
	debug         bool
	info, version bool
}

// parseCommand reads the arguments of the binary, without its name. The bundle is the working directory unless it is given.
func parseCommand(arguments []string, environment func(string) string, directory string) (command, error) {
	var c command
	var ignored string
	flags := flag.NewFlagSet("containerd-shim-limpet-v2", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&c.namespace, "namespace", "", "namespace of the container")
	flags.StringVar(&c.id, "id", "", "id of the container")
	flags.StringVar(&c.bundle, "bundle", directory, "directory of the bundle")
	flags.StringVar(&c.address, "address", "", "containerd's gRPC address")
	flags.StringVar(&c.socket, "socket", "", "path of the shim's socket")
	flags.Func("stages", "what was done before this, as JSON", c.stages.parse)
	flags.StringVar(&ignored, "publish-binary", "", "not used: events go to TTRPC_ADDRESS")
	flags.StringVar(&ignored, "debug-socket", "", "not used")
	flags.BoolVar(&c.debug, "debug", false, "log more")
	flags.BoolVar(&c.info, "info", false, "write what the runtime can do, as protobuf")
	flags.BoolVar(&c.version, "v", false, "write the version")
	flags.BoolVar(&c.version, "version", false, "write the version")
	if err := flags.Parse(arguments); err != nil {
		return command{}, err
	}
	if c.info || c.version {
		return c, nil
	}
	c.verb = flags.Arg(0)
	c.ttrpcAddress = environment("TTRPC_ADDRESS")
	switch {
	case c.verb == verbSpare:
		return c, nil
	case c.verb != verbStart && c.verb != verbDelete && c.verb != verbServe:
		return command{}, fmt.Errorf("verb %q is not known: containerd calls this program with start or delete", c.verb)
	case c.namespace == "":
		return command{}, errors.New("-namespace is missing")
	case c.id == "":
		return command{}, errors.New("-id is missing")
	}
	if !filepath.IsAbs(c.bundle) {
		c.bundle = filepath.Join(directory, c.bundle)
	}
	return c, nil
}

// Main runs the shim's binary with the arguments after its name and returns its exit status. What a verb answers goes to standard output;
// standard error is written only with a status other than 0.
func Main(arguments []string, runtime Runtime) int {
	if err := run(arguments, runtime); err != nil {
		fmt.Fprintf(os.Stderr, "containerd-shim-limpet-v2: %v\n", err)
		return 1
	}
	return 0
}

func run(arguments []string, runtime Runtime) error {
	directory, err := os.Getwd()
	if err != nil {
		return err
	}
	c, err := parseCommand(arguments, os.Getenv, directory)
	if err != nil {
		return err
	}
	c.stages.add("exec " + c.verb)
	switch {
	case c.version:
		return version(filepath.Base(os.Args[0]), os.Stdout)
	case c.info:
		return info(os.Stdin, os.Stdout)
	case c.verb == verbStart:
		return c.start(os.Stdin, os.Stdout)
	case c.verb == verbDelete:
		return c.delete(context.Background(), runtime, os.Stdout)
	case c.verb == verbSpare:
		return spare(runtime)
	}
	return c.serve(runtime)
}
