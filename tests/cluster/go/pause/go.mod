module lakehouse.dev/testcluster/pause

go 1.24.0
