// Command etcd is the etcd server of the test cluster, built from its Go module
// because the module publishes no installable main package of that name.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
