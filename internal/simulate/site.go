package simulate

import _ "embed"

//go:embed community.yaml
var communityFile []byte

// SiteFile returns the site file of the embedded community: three buildings, a fire lane, four bin stations. The
// addresses of its buses are to be replaced by where they are served.
func SiteFile() []byte { return append([]byte(nil), communityFile...) }
