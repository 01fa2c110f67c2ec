package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/runtime"
)

func sshAgentCommand() *cli.Command {
	return &cli.Command{
		Name:      "ssh-agent",
		Usage:     "let a container use your ssh-agent until Ctrl-C",
		ArgsUsage: "SANDBOX",
		Description: "Programs in the container find it with SSH_AUTH_SOCK=" + protocol.SSHAgentSocket + ". Every process of the container\n" +
			"can use it, whoever's it is: list the keys and sign with them, and nothing else; the keys stay with the agent. It needs\n" +
			"no network. A sandbox has one such command at a time.\n" +
			referenceUsage,
		Flags: sandboxFlags(&cli.StringFlag{
			Name: "socket", Usage: "the agent's `SOCKET`", EnvVars: []string{"SSH_AUTH_SOCK"}, TakesFile: true,
		}),
		OnUsageError: onUsageError,
		Before:       arguments(1, 1),
		Action:       offerSSHAgent,
	}
}

func offerSSHAgent(c *cli.Context) error {
	if c.String("socket") == "" {
		return usageError{errors.New("there is no ssh-agent: start one (eval $(ssh-agent)), or name its socket with --socket")}
	}
	socket, err := filepath.Abs(c.String("socket"))
	if err != nil {
		return err
	}
	found, err := findContainer(c, c.Args().First())
	if err != nil {
		return err
	}
	conn, err := openDoor(c.Context, found, runtime.SSHAgentDoor)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(c.Context, func() { conn.Close() })()
	request := runtime.SSHAgentRequest{Container: found.Container.ID, Socket: socket}
	if err := json.NewEncoder(conn).Encode(request); err != nil {
		return err
	}
	if err := protocol.ReadStatus(conn); err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "%s has your ssh-agent at SSH_AUTH_SOCK=%s until Ctrl-C\n", c.Args().First(), protocol.SSHAgentSocket)
	if err := copyUntil(c.Context, io.Discard, conn); err != nil {
		return err
	}
	if c.Context.Err() == nil {
		return fmt.Errorf("sandbox %s has ended", found.ID)
	}
	return nil
}
