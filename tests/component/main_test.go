package component

import (
	"flag"
	"os"
	"testing"
)

// TestMain has more tests run at once than there are cores: most of the time they wait for deadlines.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
