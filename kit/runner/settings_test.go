package runner

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/settings"
)

func TestOwnSettings(t *testing.T) {
	d := &Service{Name: "x", Settings: []settings.Setting{
		settings.Text("GREETING", "hello"), settings.URL("SHOP_URL"), settings.Number("SEATS", 4, 1, 9), settings.Duration("MAX_WAIT", time.Minute), settings.OnOff("FAST", true),
	}}
	k := func(set map[string]string) *Kit {
		c, err := ReadConfig(d, func(name string) string { return set[name] })
		require.NoError(t, err)
		return &Kit{&Instance{config: c}}
	}
	defaults := k(nil)
	require.Equal(t, "hello", defaults.Text("GREETING"))
	require.Empty(t, defaults.Text("SHOP_URL"))
	require.Equal(t, 4, defaults.Number("SEATS"))
	require.Equal(t, time.Minute, defaults.Duration("MAX_WAIT"))
	require.True(t, defaults.On("FAST"))
	set := k(map[string]string{"SEATS": "7", "MAX_WAIT": "5s", "FAST": "off", "SHOP_URL": "http://shop"})
	require.Equal(t, 7, set.Number("SEATS"))
	require.Equal(t, 5*time.Second, set.Duration("MAX_WAIT"))
	require.False(t, set.On("FAST"))
	require.Equal(t, "http://shop", set.Text("SHOP_URL"))
	for name, value := range map[string]string{"SEATS": "10", "MAX_WAIT": "soon", "FAST": "perhaps", "SHOP_URL": "shop"} {
		_, err := ReadConfig(d, func(asked string) string { return map[string]string{name: value}[asked] })
		require.ErrorContains(t, err, name+": ")
	}
	require.PanicsWithValue(t, "the setting COLOUR is not in Settings of the service", func() { defaults.Text("COLOUR") })
	require.PanicsWithValue(t, "the setting SEATS is declared as int, not as string", func() { defaults.Text("SEATS") })
	require.Zero(t, (&Kit{}).Duration("MAX_WAIT"), "described without an instance")
}
