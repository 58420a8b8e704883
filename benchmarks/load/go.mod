module fleetcert/benchmarks/load

go 1.26
