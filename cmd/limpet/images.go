package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/limpet-run/limpet/guest/client"
	"github.com/limpet-run/limpet/guest/protocol"
	"github.com/limpet-run/limpet/internal/printable"
)

func imagesCommand() *cli.Command {
	return &cli.Command{
		Name:         "images",
		Usage:        "list the images that a sandbox keeps in its guest",
		ArgsUsage:    "SANDBOX",
		Description:  "They are the sandbox's own, pulled there: containerd's are not among them.\n" + referenceUsage,
		Flags:        sandboxFlags(jsonFlag()),
		OnUsageError: onUsageError,
		Before:       arguments(1, 1),
		Action: func(c *cli.Context) error {
			_, agent, err := findAgent(c, c.Args().First())
			if err != nil {
				return err
			}
			defer agent.Close()
			images, err := client.Get[[]protocol.ImageInfo](c.Context, agent, protocol.ListImagesRequest{}, nil)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return printJSON(c.App.Writer, append([]protocol.ImageInfo{}, images...)) // an empty list is one, too
			}
			return printImages(c.App.Writer, images)
		},
	}
}

func printImages(w io.Writer, images []protocol.ImageInfo) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "IMAGE\tDIGEST\tPLATFORM\tLAYERS\tSIZE")
	for _, image := range images {
		fmt.Fprintf(table, "%s\t%s\t%s/%s\t%d\t%s\n", printable.Line(image.Reference), shortDigest(image.Digest), printable.Line(image.OS),
			printable.Line(image.Architecture), image.LayerCount, printBytes(image.Size))
	}
	return table.Flush()
}

// shortDigest is enough of a digest to know it again.
func shortDigest(digest string) string {
	return printable.Line(digest[:min(len(digest), len("sha256:")+12)])
}

func pullCommand() *cli.Command {
	return &cli.Command{
		Name:      "pull",
		Usage:     "fetch an image from its registry, in the guest of a sandbox",
		ArgsUsage: "SANDBOX IMAGE",
		Description: "It goes over the sandbox's network. Nothing of it is kept by containerd. The image's digest is printed.\n" +
			"Credentials are a user's name and, on standard input, the password.\n" + referenceUsage,
		Flags: sandboxFlags(
			&cli.StringFlag{Name: "platform", Usage: "`OS/ARCH` of the image (default: the guest's)"},
			&cli.StringFlag{Name: "username", Usage: "`NAME` of a user of the registry, whose password is on standard input"},
			jsonFlag()),
		OnUsageError: onUsageError,
		Before:       arguments(2, 2),
		Action:       pullImage,
	}
}

func pullImage(c *cli.Context) error {
	_, agent, err := findAgent(c, c.Args().First())
	if err != nil {
		return err
	}
	defer agent.Close()
	request := protocol.PullRequest{Image: c.Args().Get(1)}
	if platform := c.String("platform"); platform != "" {
		request.OCIPlatform = &platform
	}
	if c.IsSet("username") {
		password, err := bufio.NewReader(c.App.Reader).ReadString('\n')
		if err != nil && err != io.EOF {
			return fmt.Errorf("read the password: %w", err)
		}
		request.Auth = &protocol.RegistryAuth{
			Username: c.String("username"), Password: protocol.Secret(strings.TrimRight(password, "\r\n")),
		}
	}
	bar := newPercentMeter(c.App.ErrWriter, "pull "+request.Image)
	defer bar.clear()
	image, err := client.Get[protocol.ImageInfo](c.Context, agent, request, func(step protocol.ProgressResponse) {
		text := printable.Line(step.Message)
		if step.Layer != nil {
			text += " " + shortDigest(*step.Layer)
		}
		bar.describe(text)
		if step.Percent != nil {
			bar.set(int64(min(*step.Percent, 99))) // of a layer; there are others
		}
	})
	if err != nil {
		return err
	}
	bar.clear()
	if c.Bool("json") {
		return printJSON(c.App.Writer, image)
	}
	_, err = fmt.Fprintln(c.App.Writer, printable.Line(image.Digest))
	return err
}
