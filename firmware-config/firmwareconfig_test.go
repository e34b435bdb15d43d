package firmwareconfig_test

import (
	"testing"

	firmwareconfig "linli/firmware-config"
)

func TestShippedLoad(t *testing.T) {
	lib, err := firmwareconfig.Load(firmwareconfig.Shipped())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d classes, %d profiles", len(lib.Classes), len(lib.Profiles))
}
