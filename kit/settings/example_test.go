package settings_test

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/kit/settings"
)

// A program passes os.Getenv; here the environment is a map. All wrong settings are reported together.
func Example() {
	env := map[string]string{"TIMEOUT": "5s", "WORKERS": "many", "PROVIDER_URL": "provider"}
	r := settings.NewReader(func(name string) string { return env[name] })
	fmt.Println("timeout:", r.Duration("TIMEOUT", 30*time.Second))
	fmt.Println("greeting:", r.Text("GREETING", "hello"))
	r.Number("WORKERS", 4, 1, 100)
	r.URL("PROVIDER_URL")
	fmt.Println(r.Err())
	// Output:
	// timeout: 5s
	// greeting: hello
	// WORKERS: "many" is not a whole number from 1 to 100
	// PROVIDER_URL: "provider" is not a URL of http or https
}
