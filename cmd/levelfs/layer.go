package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/schollz/progressbar/v3"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/edit"
	"github.com/levelfs/levelfs/internal/layer"
	"github.com/levelfs/levelfs/internal/segment"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/ldapmap/ldifsource"
)

// newLayer has the verb that changes the inventory.
func newLayer(do doer) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "layer",
		Short: "Make, check and publish layers",
		Args:  cobra.NoArgs,
		RunE:  needsVerb,
	}
	cmd.AddCommand(newLayerPublish(do))
	return cmd
}

// addLayerBuilds adds the verbs about images.
func addLayerBuilds(cmd *cobra.Command, log *logrus.Logger) {
	cmd.AddCommand(newLayerBuild(log), newLayerCheck())
}

func newLayerPublish(do doer) *cobra.Command {
	var o changeOptions
	var wanted edit.PublishLayers
	cmd := &cobra.Command{
		Use:   "publish FILE.ldif...",
		Short: "Add layers to the inventory that belong to no level",
		Long: `Add layers to the inventory, as "levelfs layer build" has printed them. With --kind
they are customisation layers, which "levelfs customize" puts above the levels of a
component: of the site, of a group, of a host or of a user. A level's own layers come
with it: "levelfs level publish".

A layer that is there already with the same image is left as it is; another image is
another layer, with another name.

` + sourceHelp + changeExitStatus,
		Example: `  levelfs layer build /srv/build/site -o emacs-site-1.erofs --kind site >emacs-site-1.ldif
  levelfs layer publish emacs-site-1.ldif
  levelfs customize site emacs=emacs-site-1`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if wanted.Kind != "" && !slices.Contains(ldapmap.Kinds(), wanted.Kind) {
				return &usageError{fmt.Sprintf("--kind %q: want one of %s", wanted.Kind, strings.Join(ldapmap.Kinds(), ", "))}
			}
			for _, file := range args {
				entries, err := ldifsource.File(file)
				if err != nil {
					return err
				}
				wanted.Layers = append(wanted.Layers, entries...)
			}
			return do(cmd, wanted, o)
		},
	}
	cmd.Flags().StringVar(&wanted.Kind, "kind", "", "on whose part they are: site, group, host or user (default: as the file says)")
	whereFlags(cmd, &wanted.Where)
	o.flags(cmd)
	return cmd
}

type layerBuildOptions struct {
	output, fstype string
	entry          layer.Entry
	xip, json      bool
}

func newLayerBuild(log *logrus.Logger) *cobra.Command {
	var o layerBuildOptions
	cmd := &cobra.Command{
		Use:   "build DIR -o IMAGE",
		Short: "Make a layer image of a directory",
		Long: `Make an erofs or ext4 image of a directory, and print the layer's inventory entry
(LDIF) on standard output.

The image is reproducible: the same files, owners, modes and times give the same
bytes. It is made fit for execute-in-place: 4 KiB blocks, nothing compressed, no
data in inodes, no journal, a multiple of 2 MiB in size. With --xip that is checked
on the finished image, as "levelfs layer check" does. Its file system UUID is derived
from its content. An existing image is never overwritten: a level is immutable.

One z/VM segment holds at most 2046 MiB; a larger layer needs several, which are
named A:B.

EXIT STATUS
  0   done
  1   failed; no image was left
  64  the command line was wrong`,
		Example: `  levelfs layer build /srv/build/emacs-29.4 -o /var/lib/levelfs/images/emacs-29.4.erofs \
      --base ou=software,dc=example,dc=org >> emacs.ldif
  levelfs layer build /srv/build/emacs-29.4 -o emacs-29.4.ext4 --fs ext4 --xip \
      --segment EMACS294 --arch s390x`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runLayerBuild(cmd, args[0], o, log)
		},
	}
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "the image to write")
	cmd.Flags().StringVar(&o.fstype, "fs", "erofs", "the file system: erofs or ext4")
	cmd.Flags().BoolVar(&o.xip, "xip", false, "check that the image can be executed in place")
	cmd.Flags().StringVar(&o.entry.Name, "name", "", "the layer's name (default: the image's, without its suffix)")
	cmd.Flags().StringVar(&o.entry.Base, "base", "dc=example,dc=org", "the DN below which the entry goes, in ou=layers")
	cmd.Flags().StringVar(&o.entry.Segment, "segment", "", "the z/VM segment for it, NAME or NAME:NAME…")
	cmd.Flags().StringVar(&o.entry.Kind, "kind", "", "on whose part it is: site, group, host or user (default: the vendor's, for levels)")
	cmd.Flags().StringSliceVar(&o.entry.Arch, "arch", nil, "the architectures that it is for, as uname -m prints them")
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON instead of LDIF")
	return cmd
}

func runLayerBuild(cmd *cobra.Command, dir string, o layerBuildOptions, log *logrus.Logger) error {
	if o.output == "" {
		return &usageError{"levelfs layer build needs -o IMAGE"}
	}
	if o.fstype != "erofs" && o.fstype != "ext4" {
		return &usageError{fmt.Sprintf("--fs %q: want erofs or ext4", o.fstype)}
	}
	if o.entry.Name == "" {
		o.entry.Name = strings.TrimSuffix(filepath.Base(o.output), filepath.Ext(o.output))
	}
	// Asked for first: a name that cannot be used shall not cost a build.
	if err := o.entry.Check(o.output); err != nil {
		return err
	}
	options := layer.BuildOptions{FSType: o.fstype, XIP: o.xip}
	segments := 0
	if o.entry.Segment != "" {
		segments = strings.Count(o.entry.Segment, ":") + 1
		options.MaxSize = int64(segments) * segment.MaxBytes
	}
	result, err := buildWithProgress(cmd.Context(), cmd, dir, o.output, options)
	var large *layer.SizeError
	if errors.As(err, &large) {
		return fmt.Errorf("%w: a segment holds %d MiB, so that %d are needed, and --segment names %d",
			err, segment.MaxBytes>>20, segment.Parts(large.Size), segments)
	}
	if err != nil {
		return err
	}
	log.Debugf("%d files, %s, file system UUID %s", result.Files, byteCount(result.Size), result.UUID)
	if err := printResult(cmd.OutOrStdout(), result, o); err != nil {
		// Its entry is printed once: without it nobody could use the image.
		return errors.Join(err, os.Remove(result.Path), os.Remove(result.Path+layer.ManifestSuffix))
	}
	return nil
}

func printResult(out io.Writer, result layer.Result, o layerBuildOptions) error {
	if o.json {
		return writeJSON(out, result)
	}
	entry, err := result.LDIF(o.entry)
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(out, entry)
	return err
}

// buildWithProgress shows a bar where standard error is a terminal.
func buildWithProgress(ctx context.Context, cmd *cobra.Command, dir, image string, options layer.BuildOptions) (layer.Result, error) {
	if isTerminal(cmd.ErrOrStderr()) {
		var bar *progressbar.ProgressBar
		options.Progress = func(done, total int64) {
			if bar == nil {
				bar = progressbar.NewOptions64(total,
					progressbar.OptionSetWriter(cmd.ErrOrStderr()),
					progressbar.OptionSetDescription(filepath.Base(image)),
					progressbar.OptionShowBytes(true),
					progressbar.OptionClearOnFinish())
			}
			_ = bar.Set64(done) // only looks
		}
	}
	return layer.Build(ctx, dir, image, options)
}

func newLayerCheck() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check IMAGE",
		Short: "Say whether an image can be executed in place",
		Long: `Look into an image, made by whatever tool, and say whether the kernel can map its
files from shared memory (DAX) instead of copying them into each guest; and if
not, why, and what to do. A file system mounts all the same where it cannot: erofs
does not even say so.

EXIT STATUS
  0   it can
  1   it cannot, or it is not known
  64  the command line was wrong`,
		Example: `  levelfs layer check /var/lib/levelfs/images/emacs-29.4.erofs`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runLayerCheck(cmd, args[0], asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// A checkReport is what layer check prints.
type checkReport struct {
	layer.Report
	Fit bool `json:"fit"`
}

func runLayerCheck(cmd *cobra.Command, image string, asJSON bool) error {
	r, err := layer.CheckXIP(image)
	if err != nil {
		return err
	}
	if r.Problems == nil {
		r.Problems = []layer.Problem{} // an empty list, and not null, for programs
	}
	out := cmd.OutOrStdout()
	if asJSON {
		err = writeJSON(out, checkReport{r, r.Fit()})
	} else {
		_, err = fmt.Fprint(out, checkText(r))
	}
	if !r.Fit() {
		err = errors.Join(&layer.UnfitError{Report: r}, err)
	}
	return err
}

func checkText(r layer.Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s, %s, %d files with data\n", r.Image, r.FSType, byteCount(r.Size), r.Files)
	if r.Fit() {
		b.WriteString("  can be executed in place\n")
	}
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "  %s\n      %s\n", p.Text, xipHint(r.FSType, p.Kind))
	}
	return b.String()
}
