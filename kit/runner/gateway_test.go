package runner

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/sandbox"
)

func standIn(name string) func() *sandbox.Service {
	return func() *sandbox.Service { return sandbox.New(name, func(struct{}) string { return "" }, nil) }
}

func TestGatewaySettings(t *testing.T) {
	d := &Service{Name: "x", Gateways: []Gateway{
		{Name: "cards", StandIn: standIn("cards")}, {Name: "hotel-rooms", StandIn: standIn("hotel-rooms")},
		{Name: "spare", Setting: "SPARE_ADDRESS", StandIn: standIn("spare"), Optional: true},
	}}
	read := func(settings map[string]string) (Config, error) {
		return ReadConfig(d, func(name string) string { return settings[name] })
	}
	c, err := read(nil)
	require.NoError(t, err)
	require.True(t, d.needsSandbox(c))

	both := map[string]string{"CARDS_URL": "http://cards", "HOTEL_ROOMS_URL": "http://rooms"}
	c, err = read(both)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"cards": "http://cards", "hotel-rooms": "http://rooms", "spare": ""}, c.Gateways)
	require.False(t, d.needsSandbox(c))

	c, err = read(map[string]string{"SPARE_ADDRESS": "http://spare"})
	require.NoError(t, err)
	require.True(t, d.needsSandbox(c), "an optional one alone does not replace the sandbox")

	for want, settings := range map[string]map[string]string{
		"CARDS_URL: and HOTEL_ROOMS_URL are set together, or none of them": {"HOTEL_ROOMS_URL": "http://rooms"},
		`SPARE_ADDRESS: "x" is not a URL`:                                  {"SPARE_ADDRESS": "x"},
		"SANDBOX: without CARDS_URL and HOTEL_ROOMS_URL the sandbox would stand in for them, and HTTP_ADDR 0.0.0.0:80 is beyond loopback": {"HTTP_ADDR": "0.0.0.0:80", "AUTH_MODE": "none"},
		`SANDBOX: "perhaps" is neither on nor off`: {"SANDBOX": "perhaps"},
	} {
		_, err := read(settings)
		require.ErrorContains(t, err, want)
	}
	_, err = read(map[string]string{"HTTP_ADDR": "0.0.0.0:80", "AUTH_MODE": "none", "SANDBOX": "on"})
	require.NoError(t, err)
	c, err = read(map[string]string{"HOTEL_ROOMS_URL": "http://rooms", "SANDBOX": "on"})
	require.NoError(t, err)
	require.True(t, d.needsSandbox(c), "for cards alone")
}

func TestGatewaysWithoutStandInsNeedNoSandbox(t *testing.T) {
	d := &Service{Name: "x", Gateways: []Gateway{{Name: "cards"}}}
	c, err := ReadConfig(d, func(string) string { return "" })
	require.NoError(t, err)
	require.False(t, d.needsSandbox(c))
	require.Empty(t, (&Kit{}).GatewayURL("cards"), "described without an instance")
	require.False(t, (&Service{}).needsSandbox(c))
}

func TestSandboxAddressNamesTheServicesThatAreNeeded(t *testing.T) {
	s := &Instance{OpsURL: "http://here", def: &Service{Gateways: []Gateway{
		{Name: "cards", StandIn: standIn("cards")}, {Name: "rooms", StandIn: standIn("rooms")}, {Name: "spare", StandIn: standIn("spare"), Optional: true},
	}}}
	require.Equal(t, "http://here/v1/sandbox/cards and …/rooms", s.sandboxAddress())
}
