package bench

import "github.com/levelfs/levelfs/internal/testenv"

// inventoryOf has a component for each key, with one level of the given layers,
// and a host that is assigned all of them.
func inventoryOf(layers ...testenv.Layer) testenv.Inventory {
	host := testenv.Caller{Name: "lnx01"}
	inv := testenv.Inventory{Layers: layers}
	var names []string
	for _, l := range layers {
		names = append(names, l.Name)
	}
	for i := range keys {
		inv.Components = append(inv.Components, testenv.Component{
			Name: key(i), Levels: []testenv.Level{{Name: "1.0", Layers: names}},
		})
		host.Assign = append(host.Assign, key(i)+"=1.0")
	}
	inv.Hosts = []testenv.Caller{host}
	return inv
}
