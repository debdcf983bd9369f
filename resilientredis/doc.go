// Package resilientredis keeps the records of idempotency keys in Redis, for
// services that run as several processes: [Store] is an [idempotency.Store].
//
// Every method is one Lua script and one round trip, at a single server or at a
// Redis Cluster. The scripts take the time from the server (TIME), so that the
// clocks of its clients need not agree, and decide by the times a record holds,
// never by when Redis happens to expire a key. It needs Redis 7.0 or later.
//
// # What survives
//
// The Store is as durable as the server it is given, no more:
//
//   - appendonly yes and appendfsync always: what was acknowledged survives a
//     crash of the server. With everysec a crash loses about the last second,
//     without appendonly all of it. A lost claim means that the work may run a
//     second time; a lost result means that its key reads as Unknown.
//   - maxmemory-policy noeviction: any other lets a server that is short of
//     memory drop records as if nothing had run. With noeviction a full server
//     refuses new keys ([idempotency.ErrFull]), still tells what it knows, and
//     still takes the results of what runs, for which some memory has to be left.
//   - Redis replicates after it has acknowledged. A failover, by Sentinel, by a
//     cluster or by a provider, can lose the latest claims, and so can a network
//     partition; min-replicas-to-write makes that rarer, WAIT would too, and
//     neither rules it out. Where a second run must never happen, keep the
//     records in the database that the work itself writes to, or have whatever
//     it writes to refuse an old fence.
//
// [Store.Check] tells of the first two what the server lets it see.
//
// # The fence
//
// The fence of a run is the server's time in microseconds, or one more than that
// of the run before, whichever is more. So it grows over a release and over an
// expiry without a counter that would have to be kept, provided the server's
// clock does not jump back: while a key has a record its fence grows in any case;
// once the record is gone a jump back, or a failover to a server whose clock is
// behind, of more than the time between two runs gives the later run the lower
// fence. A clock that jumps ahead makes leases lapse, which leaves keys Unknown
// and runs nothing twice, and keys be forgotten early.
//
// # The client
//
// go-redis heeds the deadline of a context only with Options.ContextTimeoutEnabled,
// so [New] refuses a client without it. Of a client of another type New cannot
// tell: without that option a method lasts as long as all attempts may, each of
// them DialTimeout, WriteTimeout and ReadTimeout at most. A context that is
// cancelled before its deadline ends a method only between two attempts. So keep
// these short.
//
// go-redis repeats a command that failed on the way (Options.MaxRetries, three
// times unless told otherwise). Here this is harmless: every method may be
// repeated. So is the EVAL by which it loads a script that the server has not seen.
//
// The user of an ACL needs EVALSHA, EVAL, TIME, EXISTS, HMGET, HSET, GET, SET,
// DEL and PEXPIREAT on the prefix, and INFO and CONFIG GET for Check.
//
// # What is stored
//
// For each key a hash named after the prefix and the ID, and beside it, once
// completed, a string with the result. Neither holds the idempotency key itself;
// the result is stored as it came. Redis frees the string when the result's time
// is over and the hash when the key's is. The hash names its version. A record of
// another version is an error and never taken for an absent one.
package resilientredis
