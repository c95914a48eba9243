package lint

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/levelfs/levelfs/ldapmap"
)

// large is a fleet of 100,000 hosts and 1,000 components of five levels each, of a
// segment each. Every host refers to one of 2,000 profiles, which assign fifty
// components each and include one of twenty that assign a hundred; it is in two of 500
// groups, which assign ten each; every tenth assigns two of its own.
func large(hosts int) string {
	const components, levels, profiles, bases, groups = 1000, 5, 2000, 20, 500
	var b strings.Builder
	assign := func(from, n, level int) {
		for i := range n {
			fmt.Fprintf(&b, "levelfsAssignment: c%d=%d\n", (from+i)%components, level%levels)
		}
	}
	for c := range components {
		fmt.Fprintf(&b, "dn: cn=c%d,ou=c,dc=x\nobjectClass: levelfsComponent\ncn: c%[1]d\nlevelfsDefault: %d\nlevelfsMountPoint: /opt/c%[1]d\n\n", c, c%levels)
		for v := range levels {
			layer := ldapmap.Layer{Name: fmt.Sprintf("c%d-%d", c, v), FSType: "erofs", Digest: fmt.Sprintf("sha256:%064x", c*levels+v)}
			begin := 0x100000 + (c*levels+v)*pagesPerUnit
			fmt.Fprintf(&b, "dn: cn=c%d@%d,cn=c%[1]d,ou=c,dc=x\nobjectClass: levelfsLevel\ncn: c%[1]d@%[2]d\nlevelfsLayerRef: 0:%s\nlevelfsSeal: %s\n\n",
				c, v, layer.Name, ldapmap.Seal(fmt.Sprintf("c%d@%d", c, v), []ldapmap.Layer{layer}))
			fmt.Fprintf(&b, "dn: cn=%s,ou=l,dc=x\nobjectClass: levelfsLayer\ncn: %[1]s\nlevelfsFSType: erofs\nlevelfsDigest: %s\nlevelfsSegment: S%d\nlevelfsRange: S%[3]d:%X-%X\n\n",
				layer.Name, layer.Digest, c*levels+v, begin, begin+pagesPerUnit-1)
		}
	}
	for p := range bases {
		fmt.Fprintf(&b, "dn: cn=base%d,ou=p,dc=x\nobjectClass: levelfsProfile\ncn: base%[1]d\n", p)
		assign(p*50, 100, p)
		b.WriteString("\n")
	}
	for p := range profiles {
		fmt.Fprintf(&b, "dn: cn=p%d,ou=p,dc=x\nobjectClass: levelfsProfile\ncn: p%[1]d\nlevelfsProfileRef: base%d\n", p, p%bases)
		assign(p%bases*50+100+p*7%800, 50, p)
		b.WriteString("\n")
	}
	members := make([][]string, groups)
	for h := range hosts {
		dn := fmt.Sprintf("cn=h%d.example.org,ou=h,dc=x", h)
		fmt.Fprintf(&b, "dn: %s\nobjectClass: device\nobjectClass: levelfsCaller\ncn: h%d.example.org\nlevelfsProfileRef: p%d\n", dn, h, h%profiles)
		if h%10 == 0 {
			assign(h*13, 2, h)
		}
		b.WriteString("\n")
		for _, g := range []int{h / 7 % (groups / 2), groups/2 + h/11%(groups/2)} {
			members[g] = append(members[g], dn)
		}
	}
	for g := range groups {
		fmt.Fprintf(&b, "dn: cn=g%d,ou=g,dc=x\nobjectClass: groupOfNames\nobjectClass: levelfsCaller\ncn: g%[1]d\n", g)
		for _, dn := range members[g] {
			b.WriteString("member: " + dn + "\n")
		}
		if g < groups/2 {
			assign(g*3, 10, 1)
		} else {
			assign(g*3+500, 10, 1)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// BenchmarkLarge lints 100,000 hosts. It also prints the processor time of that, how long
// it took to load them, and the most memory that the process ever had.
func BenchmarkLarge(b *testing.B) {
	start := time.Now()
	f := load(b, large(100_000))
	loaded := time.Since(start)
	before := cpu(b)
	var findings int
	for b.Loop() {
		found, err := Run(b.Context(), f, Options{Tree: "/sw"}, nil)
		if err != nil {
			b.Fatal(err)
		}
		findings = len(found)
	}
	after := cpu(b)
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/lint")
	b.ReportMetric((seconds(after.Utime)+seconds(after.Stime)-seconds(before.Utime)-seconds(before.Stime))/float64(b.N), "cpu-s/lint")
	b.ReportMetric(loaded.Seconds(), "s/load")
	b.ReportMetric(float64(after.Maxrss)/1024, "MiB")
	b.ReportMetric(float64(findings), "findings")
}

func cpu(b *testing.B) (usage syscall.Rusage) {
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return usage
}

func seconds(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
