package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/limpet-run/limpet/guest/client"
	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/runtime"
)

// pingTimeout is how long the agent may take to answer: it does so in a millisecond.
const pingTimeout = 10 * time.Second

func agentCommand() *cli.Command {
	return &cli.Command{
		Name:  "agent",
		Usage: "speak with the agent of a sandbox",
		Subcommands: withSandboxes(&cli.Command{
			Name:         "ping",
			Usage:        "see that the agent answers, and how fast",
			ArgsUsage:    "SANDBOX",
			Description:  referenceUsage,
			Flags:        sandboxFlags(&cli.IntFlag{Name: "count", Aliases: []string{"n"}, Value: 1, Usage: "how many `TIMES`"}),
			OnUsageError: onUsageError,
			Before:       arguments(1, 1),
			Action:       pingAgent,
		}, &cli.Command{
			Name:      "raw",
			Usage:     "send the agent a machine request as it is, and print what it answers",
			ArgsUsage: "SANDBOX JSON|-",
			Description: "For example: limpet agent raw SANDBOX '{\"method\": \"storage_status\"}'. With - the requests are the\n" +
				"lines of standard input: each is sent once the one before has been answered, or its command takes input.\n" +
				"Each answer is a line, an error one too: then the exit status is 1.\n" + referenceUsage,
			Flags:        sandboxFlags(),
			OnUsageError: onUsageError,
			Before:       arguments(2, 2),
			Action:       askRaw,
		}),
		OnUsageError: onUsageError,
		Action:       needSubcommand,
	}
}

// needSubcommand is the action of a command that is nothing without one of its own.
func needSubcommand(c *cli.Context) error {
	if c.Args().Present() {
		return usageError{fmt.Errorf("unknown command %q: see %s --help", c.Args().First(), c.Command.HelpName)}
	}
	return cli.ShowSubcommandHelp(c)
}

// openAgent connects to a sandbox's agent for machine requests.
func openAgent(ctx context.Context, found runtime.Found) (*client.Requests, error) {
	conn, err := openDoor(ctx, found, runtime.AgentDoor)
	if err != nil {
		return nil, err
	}
	return client.NewRequests(conn, ""), nil
}

// findAgent is openAgent for a reference.
func findAgent(c *cli.Context, reference string) (runtime.Found, *client.Requests, error) {
	found, err := findSandbox(c, reference)
	if err != nil {
		return found, nil, err
	}
	requests, err := openAgent(c.Context, found)
	return found, requests, err
}

func pingAgent(c *cli.Context) error {
	if c.Int("count") < 1 {
		return usageError{fmt.Errorf("--count %d: want at least 1", c.Int("count"))}
	}
	found, agent, err := findAgent(c, c.Args().First())
	if err != nil {
		return err
	}
	defer agent.Close()
	for range c.Int("count") {
		began := time.Now()
		ctx, cancel := context.WithTimeout(c.Context, pingTimeout)
		answer, err := agent.Do(ctx, protocol.PingRequest{}, nil)
		cancel()
		if err != nil {
			return fmt.Errorf("ping the agent of sandbox %s: %w", found.ID, err)
		}
		pong, ok := answer.(protocol.PongResponse)
		if !ok {
			return fmt.Errorf("the agent of sandbox %s answers a ping with a %T", found.ID, answer)
		}
		took := time.Since(began).Round(time.Microsecond)
		fmt.Fprintf(c.App.Writer, "the agent of %s answers: protocol version %d, %s\n", found.ID, pong.Version, took)
	}
	return nil
}

func askRaw(c *cli.Context) error {
	_, agent, err := findAgent(c, c.Args().First())
	if err != nil {
		return err
	}
	defer agent.Close()
	var input io.Reader = strings.NewReader(c.Args().Get(1))
	if c.Args().Get(1) == "-" {
		input = c.App.Reader
	}
	ctx, cancel := context.WithCancel(c.Context)
	defer cancel()
	return converse(ctx, agent, readLines(ctx, input), c.App.Writer)
}

// line is one of a text, or why there is none.
type line struct {
	text []byte
	err  error
}

// readLines passes on the lines of a text that are not empty, until its end, which is the channel's.
func readLines(ctx context.Context, input io.Reader) <-chan line {
	lines := make(chan line)
	pass := func(text []byte, err error) {
		select {
		case lines <- line{text, err}:
		case <-ctx.Done():
		}
	}
	go func() {
		defer close(lines)
		scanner := bufio.NewScanner(input)
		scanner.Buffer(nil, protocol.MaxPayload)
		for scanner.Scan() && ctx.Err() == nil {
			if text := bytes.TrimSpace(scanner.Bytes()); len(text) > 0 {
				pass(bytes.Clone(text), nil)
			}
		}
		if err := scanner.Err(); err != nil {
			pass(nil, fmt.Errorf("read requests: %w", err))
		}
	}()
	return lines
}

// conversation is how far an exchange of requests and answers is.
//
//	idle ──request──▶ asked ──last answer──▶ idle
//	                    │ started               ▲
//	                    ▼                       │ exited, or never will
//	                 running ──input, size──────┘
type conversation int

const (
	idle conversation = iota
	asked
	running
)

// answered is what an answer is to the conversation.
type answered struct {
	Status string `json:"status"`
	Code   string `json:"code"`
	Done   bool   `json:"done"`
}

// next is where an answer leads.
func (state conversation) next(answer answered) conversation {
	switch {
	case answer.Status == "progress", answer.Status == "data_chunk" && !answer.Done, answer.Status == "stdout", answer.Status == "stderr":
		return state
	case answer.Status == "started":
		return running
	case state == running && answer.Status == "error" && answer.Code != string(protocol.CodeWaitFailed): // of what was sent meanwhile
		return running
	}
	return idle
}

// takes tells whether a request can be sent now.
func (state conversation) takes(request []byte) bool {
	if state == running {
		var head struct {
			Method string `json:"method"`
		}
		_ = json.Unmarshal(request, &head) // what is no request waits for its turn
		return head.Method == "stdin" || head.Method == "resize"
	}
	return state == idle
}

// converse sends requests and prints the answers.
func converse(ctx context.Context, agent *client.Requests, requests <-chan line, to io.Writer) error {
	answers := make(chan line)
	go func() {
		for {
			text, err := agent.ReceiveRaw(ctx)
			select {
			case answers <- line{text, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	var failure error
	var next []byte // a request that is to be sent
	for state := idle; ; {
		if next != nil && state.takes(next) {
			if err := agent.SendRaw(ctx, next); err != nil {
				return err
			}
			next = nil
			if state == idle {
				state = asked
			}
		}
		more := requests
		if next != nil {
			more = nil
		}
		if requests == nil && next == nil && state == idle {
			return failure
		}
		select {
		case request, ok := <-more:
			switch {
			case !ok:
				requests = nil
			case request.err != nil:
				return request.err
			}
			next = request.text
		case got := <-answers:
			if got.err != nil {
				return got.err
			}
			text, answer, err := readAnswer(got.text)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(to, "%s\n", text); err != nil {
				return err
			}
			if answer.Status == "error" {
				failure = errFailed
			}
			state = state.next(answer)
		}
	}
}

// readAnswer makes an answer a line that is safe to print: the guest could say anything.
func readAnswer(text []byte) (string, answered, error) {
	var answer answered
	safe, err := compactJSON(text)
	if err = errors.Join(err, json.Unmarshal(text, &answer)); err != nil {
		return "", answer, fmt.Errorf("the agent's answer is no JSON: %w", err)
	}
	return safe, answer, nil
}
