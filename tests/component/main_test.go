//go:build !race

package component

import (
	"flag"
	"os"
	"runtime"
	"strconv"
	"testing"

	"github.com/millrace/millrace/kit/kittest"
)

// TestMain runs four tests at a time, because tests of instances mostly wait: unless -parallel says otherwise, and not the long tests, nor those on
// real services.
func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given && !kittest.Real() && !kittest.LongTests() && kittest.External() == "" {
		if err := flag.Set("test.parallel", strconv.Itoa(max(4, runtime.GOMAXPROCS(0)))); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
