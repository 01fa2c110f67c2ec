package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/limpet-run/limpet/internal/printable"
	"github.com/limpet-run/limpet/runtime"
	"github.com/limpet-run/limpet/runtime/config"
	"github.com/limpet-run/limpet/runtime/template"
)

const (
	// countsTimeout is how long to wait for who counts a start: it takes a tenth of a millisecond.
	countsTimeout = time.Second
	// leftoversTimeout is how long to wait for who builds a template.
	leftoversTimeout = 30 * time.Second
	// shownBoots is how many of the last boots are shown to people.
	shownBoots = 3
)

const templateUsage = "TEMPLATE is the identifier of one, or the beginning that no other has."

func templateCommand() *cli.Command {
	return &cli.Command{
		Name:  "template",
		Usage: "look after the saved machines that sandboxes are clones of",
		Subcommands: []*cli.Command{
			{
				Name:  "build",
				Usage: "make the template for this configuration, unless it is there",
				Description: "The first sandbox that needs it makes it, too. It takes as long as a boot. A template is of one size of machine, kernel,\n" +
					"image, QEMU and limpet: after a change of any of them there is a new one, which takes the old one's place.",
				Flags:        templateFlags(jsonFlag()),
				OnUsageError: onUsageError,
				Before:       arguments(0, 0),
				Action:       buildTemplate,
			},
			{
				Name:  "ls",
				Usage: "list the templates",
				Description: "One is current (sandboxes of this configuration are clones of it), usable (those of another configuration are, as with\n" +
					"annotations) or stale (a file that it is made of has changed, or one of its own: it is not used any more). Below\n" +
					"stands how many sandboxes were clones, how many booted although they were to be clones, and why the last ones did.",
				Flags:        templateFlags(jsonFlag()),
				OnUsageError: onUsageError,
				Before:       arguments(0, 0),
				Action:       listTemplates,
			},
			{
				Name:         "inspect",
				Usage:        "print all that is known of a template, as JSON",
				ArgsUsage:    "TEMPLATE",
				Description:  "Its ingredients are what has to be the same for a sandbox to be its clone.\n" + templateUsage,
				Flags:        templateFlags(),
				OnUsageError: onUsageError,
				Before:       arguments(1, 1),
				BashComplete: completeTemplates,
				Action: func(c *cli.Context) error {
					found, err := findTemplate(c, c.Args().First())
					if err != nil {
						return err
					}
					return printJSON(c.App.Writer, found)
				},
			},
			{
				Name:      "rm",
				Usage:     "remove templates",
				ArgsUsage: "TEMPLATE...",
				Description: "Sandboxes that are clones of one go on. The next that needs it makes it again. With --all or --stale what was left by\n" +
					"killed processes that made or removed one goes, too.\n" + templateUsage,
				Flags: templateFlags(&cli.BoolFlag{Name: "all", Usage: "all of them"},
					&cli.BoolFlag{Name: "stale", Usage: "those that are not used any more"}),
				OnUsageError: onUsageError,
				BashComplete: completeTemplates,
				Action:       removeTemplates,
			},
		},
		OnUsageError: onUsageError,
		Action:       needSubcommand,
	}
}

// templateFlags are those of a command about templates, and more.
func templateFlags(more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{
		&cli.StringFlag{Name: "config", Usage: "configuration `FILE` (default: /etc/limpet/config.toml if it exists)", TakesFile: true},
	}, more...)
}

func buildTemplate(c *cli.Context) error {
	settings, err := config.Load(c.String("config"))
	if err != nil {
		return err
	}
	screen := newProgress(os.Stderr)
	defer screen.done()
	logger := slog.New(slog.NewTextHandler(c.App.ErrWriter, &slog.HandlerOptions{Level: slog.LevelWarn}))
	info, built, err := runtime.BuildTemplate(c.Context, settings, logger, func(step string) { screen.say("template: " + step) })
	if err != nil {
		return err
	}
	screen.done()
	if c.Bool("json") {
		return printJSON(c.App.Writer, struct {
			runtime.TemplateInfo
			Built bool `json:"built"`
		}{info, built})
	}
	text := "is there already"
	if built {
		text = fmt.Sprintf("made in %s, %s", buildTime(info), printBytes(uint64(info.Bytes)))
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s  %s\n", info.ID, text)
	return err
}

func buildTime(info runtime.TemplateInfo) time.Duration {
	return (time.Duration(info.BuildMS) * time.Millisecond).Round(10 * time.Millisecond)
}

func listTemplates(c *cli.Context) error {
	settings, err := config.Load(c.String("config"))
	if err != nil {
		return err
	}
	list, err := runtime.Templates(settings)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context, countsTimeout)
	defer cancel()
	counts, err := template.Open(settings.Template.Dir).Counts(ctx)
	if c.Bool("json") {
		return errors.Join(printJSON(c.App.Writer, map[string]any{"templates": list, "starts": counts}), err)
	}
	now := time.Now()
	return errors.Join(printTemplates(c.App.Writer, list, now), printCounts(c.App.Writer, counts, now), err)
}

func printTemplates(w io.Writer, list []runtime.TemplateInfo, now time.Time) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "TEMPLATE\tSTATE\tAGE\tSIZE\tBUILD\tKERNEL\tIMAGE\tPROBLEM")
	for _, info := range list {
		made, built := "-", "-"
		if !info.Made.IsZero() {
			made, built = printAge(info.Made, now), buildTime(info).String()
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", info.ID, info.State, made, printBytes(uint64(info.Bytes)), built,
			cmp.Or(info.Ingredient("kernel").Path, "-"), cmp.Or(info.Ingredient("image").Path, "-"),
			printable.Line(cmp.Or(info.Problem, "-")))
	}
	return table.Flush()
}

// printCounts writes how many sandboxes were clones, if any was counted.
func printCounts(w io.Writer, counts template.Counts, now time.Time) error {
	if counts.Since.IsZero() {
		return nil
	}
	var text strings.Builder
	fmt.Fprintf(&text, "\nSandboxes since %s: %d clones, %d that booted instead.\n", counts.Since.Local().Format(time.DateTime),
		counts.Clones, counts.Boots)
	for _, boot := range counts.Last[:min(len(counts.Last), shownBoots)] {
		fmt.Fprintf(&text, "%s booted %s ago: %s\n", printable.Line(boot.Sandbox), printAge(boot.At, now), printable.Line(boot.Reason))
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// findTemplate returns what is meant; its error says the way out.
func findTemplate(c *cli.Context, reference string) (runtime.TemplateInfo, error) {
	settings, err := config.Load(c.String("config"))
	if err != nil {
		return runtime.TemplateInfo{}, err
	}
	found, err := runtime.FindTemplate(settings, reference)
	if err != nil {
		err = fmt.Errorf("%w (`limpet template ls` lists those there are)", err)
	}
	return found, err
}

func removeTemplates(c *cli.Context) error {
	chosen := c.Bool("all") || c.Bool("stale")
	switch {
	case c.Bool("all") && c.Bool("stale"):
		return usageError{errors.New("--all and --stale: one of them is enough")}
	case chosen && c.NArg() > 0:
		return usageError{fmt.Errorf("template rm takes templates, --all or --stale: not %q beside these", c.Args().First())}
	case !chosen && c.NArg() == 0:
		return usageError{errors.New("template rm lacks an argument: limpet template rm TEMPLATE..., --all or --stale")}
	}
	settings, err := config.Load(c.String("config"))
	if err != nil {
		return err
	}
	store := template.Open(settings.Template.Dir)
	var errs []error
	remove := func(info runtime.TemplateInfo) {
		err := store.Remove(info.ID)
		if err == nil {
			_, err = fmt.Fprintln(c.App.Writer, info.ID)
		}
		errs = append(errs, err)
	}
	for _, reference := range c.Args().Slice() {
		info, err := findTemplate(c, reference)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		remove(info)
	}
	if !chosen {
		return errors.Join(errs...)
	}
	list, err := runtime.Templates(settings)
	errs = append(errs, err)
	for _, info := range list {
		if c.Bool("all") || info.State == runtime.TemplateStale {
			remove(info)
		}
	}
	ctx, cancel := context.WithTimeout(c.Context, leftoversTimeout)
	defer cancel()
	return errors.Join(append(errs, store.RemoveLeftovers(ctx))...)
}

// completeTemplates prints the templates that there are; or flags, if one is begun.
func completeTemplates(c *cli.Context) {
	if completesFlag() {
		cli.DefaultCompleteWithFlags(c.Command)(c)
		return
	}
	settings, err := config.Load(c.String("config"))
	if err != nil { // what is wrong is said when the command runs
		return
	}
	list, _ := template.Open(settings.Template.Dir).List()
	for _, template := range list {
		fmt.Fprintln(c.App.Writer, template.ID)
	}
}
