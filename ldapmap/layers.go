package ldapmap

import (
	"context"
	"errors"
	"slices"
)

// layersAtOnce is how many layers one search asks for.
const layersAtOnce = 100

// Layers returns the layers of these names that the inventory has, whether a level that
// may be run holds them or not: what a retired level was made of is asked for, too.
func (r *Resolver) Layers(ctx context.Context, names []string) ([]Layer, error) {
	names = slices.DeleteFunc(slices.Compact(slices.Sorted(slices.Values(names))), func(name string) bool { return !ValidLayer(name) })
	var layers []Layer
	for some := range slices.Chunk(names, layersAtOnce) {
		l := newLookup(Query{}, r.Sources)
		terms := []Term{{class(classLayer), anyOf("cn", some...)}}
		err := l.search(ctx, terms, attributes(), func(f *found, e Entry) error {
			f.layers = append(f.layers, e)
			return nil
		})
		if err != nil {
			return nil, err
		}
		for _, name := range some {
			layer, err := l.layer(name, "")
			var missing *NotFoundError
			if errors.As(err, &missing) {
				continue
			}
			if err != nil {
				return nil, err
			}
			layers = append(layers, layer)
		}
	}
	return layers, nil
}
