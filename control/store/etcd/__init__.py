"""The store on an external etcd cluster, for those who run one already or outgrow the embedded store.

How the parts fit:

    address    `etcd://HOST:PORT,…?prefix=/steersman`, and the files of mutual TLS
    client     calls with time-outs on whichever etcd member answers; which errors leave the outcome open
    layout     keys and values: where things are kept in etcd, and what is written before each value
    txn        a transaction of the store as a transaction of etcd, and back
    mirror     the state that reads, watches and indexes are answered from, fed by one watch
    election   who of the members leads, by a lease; the fence that every write is checked against
    administration  what `steer cluster` shows, and what it refuses
    store      all of it together, as a `Store`

docs/decisions/013-etcd-backend.md gives the reasons.
"""
