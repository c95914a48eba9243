package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/levelfs/levelfs/internal/diff"
	"github.com/levelfs/levelfs/internal/private"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

// staleNamed is how many stale files a finding names.
const staleNamed = 3

// compare looks for private files that hide what a level has brought. Unless everything is to
// be read, nothing is written: lists of files that are not here are not made of the images,
// and what cannot be compared without them is left out.
func (g *gatherer) compare(ctx context.Context) {
	each(4, len(g.Private), func(i int) {
		if p := &g.Private[i]; !p.NoComponent && !p.NoAccount {
			g.compareOne(ctx, p)
		}
	})
}

func (g *gatherer) compareOne(ctx context.Context, p *Private) {
	user, component, dir, reading := p.User, p.Component, p.Dir, !g.options.All
	wanted, mounted := g.standing(*p)
	stale, err := Try(ctx, g.limit, func(ctx context.Context) (*Stale, error) {
		if empty, err := private.Empty(dir); empty || errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		l, err := private.Open(g.Config, component, user)
		if err != nil {
			return nil, err
		}
		l.Reading = reading
		l.Recall()
		now := l.Now()
		if wanted != nil {
			l.Learn(wanted.Layers)
			l.Learn(wanted.Above)
			if !mounted {
				now = private.Base(wanted)
			}
		}
		return overtaken(ctx, l, now)
	})
	if err != nil {
		g.unchecked("private files of "+dir, err)
	}
	p.Stale = stale
}

// standing is what the inventory wants of him whose private layer it is, nil if that is not
// known, and whether a view of his is mounted.
func (g *gatherer) standing(p Private) (wanted *ldapmap.Resolution, mounted bool) {
	who := Asker{User: p.User, Component: p.Component}
	mounted = slices.ContainsFunc(g.Views, func(v View) bool { return v.Asker == who })
	if i := slices.IndexFunc(g.Wants, func(w Want) bool { return w.Asker == who }); i >= 0 {
		wanted = g.Wants[i].resolution
	}
	return wanted, mounted
}

// overtaken compares, and returns nil if there is nothing to tell, or nobody can.
func overtaken(ctx context.Context, l *private.Layer, now mounter.Base) (*Stale, error) {
	stale := func(v diff.Verdict) bool { return !v.Settled() && v != diff.Unknown }
	found, err := l.Summary(ctx, now, staleNamed, stale)
	var missing *private.MissingError
	if errors.As(err, &missing) {
		return nil, nil
	}
	s := &Stale{Level: now.Level, Files: len(found.Named) + found.More}
	for _, f := range found.Named {
		s.Paths = append(s.Paths, fmt.Sprintf("%q (%s)", f.Path, f.Verdict))
	}
	if s.Files == 0 {
		s = nil
	}
	return s, err
}
