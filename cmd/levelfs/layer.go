package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/schollz/progressbar/v3"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/layer"
)

func newLayer(log *logrus.Logger) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "layer",
		Short: "Make layers",
		Args:  cobra.NoArgs,
		RunE:  needsVerb,
	}
	cmd.AddCommand(newLayerBuild(log))
	return cmd
}

type layerBuildOptions struct {
	output, name, base string
	json               bool
}

func newLayerBuild(log *logrus.Logger) *cobra.Command {
	var o layerBuildOptions
	cmd := &cobra.Command{
		Use:   "build DIR -o IMAGE",
		Short: "Make a layer image of a directory",
		Long: `Make an erofs image of a directory, and print the layer's inventory entry (LDIF) on
standard output.

The image is reproducible: the same files, owners, modes and times give the same
bytes. It is fit for execute-in-place: 4 KiB blocks, nothing compressed, no data
in inode tails, a multiple of 2 MiB in size. Its file system UUID is derived from
its content. An existing image is never overwritten: a level is immutable.

EXIT STATUS
  0   done
  1   failed; no image was left
  64  the command line was wrong`,
		Example: `  levelfs layer build /srv/build/emacs-29.4 -o /var/lib/levelfs/images/emacs-29.4.erofs \
      --base ou=software,dc=example,dc=org >> emacs.ldif`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runLayerBuild(cmd, args[0], o, log)
		},
	}
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "the image to write")
	cmd.Flags().StringVar(&o.name, "name", "", "the layer's name (default: the image's, without its suffix)")
	cmd.Flags().StringVar(&o.base, "base", "dc=example,dc=org", "the DN below which the entry goes, in ou=layers")
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON instead of LDIF")
	return cmd
}

func runLayerBuild(cmd *cobra.Command, dir string, o layerBuildOptions, log *logrus.Logger) error {
	if o.output == "" {
		return &usageError{"levelfs layer build needs -o IMAGE"}
	}
	if o.name == "" {
		o.name = strings.TrimSuffix(filepath.Base(o.output), filepath.Ext(o.output))
	}
	// Asked for first: a name that cannot be used shall not cost a build.
	if err := layer.CheckEntry(o.name, o.base, o.output); err != nil {
		return err
	}
	result, err := buildWithProgress(cmd.Context(), cmd, dir, o.output)
	if err != nil {
		return err
	}
	log.Debugf("%d files, %s, file system UUID %s", result.Files, byteCount(result.Size), result.UUID)
	if o.json {
		return writeJSON(cmd.OutOrStdout(), result)
	}
	entry, err := result.LDIF(o.name, o.base)
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(cmd.OutOrStdout(), entry)
	return err
}

// buildWithProgress shows a bar where standard error is a terminal.
func buildWithProgress(ctx context.Context, cmd *cobra.Command, dir, image string) (layer.Result, error) {
	var options layer.BuildOptions
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
