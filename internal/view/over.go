package view

import (
	"path/filepath"

	"github.com/levelfs/levelfs/mounter"
)

// PlanOver plans a view over another one, in a user namespace: what somebody can make of a
// level who may not mount its layers. The other view is the level as it was delivered, which
// automount mounts for everybody who asks for it by name; its files are not checked again.
// Run is a directory of the caller's own.
func PlanOver(delivered mounter.View, target, run string, o Options) (*mounter.Plan, error) {
	return mounter.Build(mounter.Request{
		Name:    delivered.Name,
		Target:  target,
		Also:    o.Also,
		Layers:  []mounter.Layer{{Name: delivered.Name, FSType: "dir", Dir: filepath.Dir(delivered.Target), Path: filepath.Base(delivered.Target)}},
		Private: o.Private,
		UserNS:  true,
		Flags:   append([]string{"nosuid"}, o.Flags...),
		Run:     run,
		Cache:   run,
	})
}
