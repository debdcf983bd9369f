package resilientpg

import (
	"context"
	"fmt"
	"hash/fnv"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

const defaultTable = "idempotency_keys"

// names are the identifiers of a table and of what belongs to it, quoted.
type names struct {
	name                   string // the table's, bare
	table, sequence, index string
}

// tablePattern is narrower than what PostgreSQL can be made to accept.
var tablePattern = regexp.MustCompile(`^(?:([a-z_][a-z0-9_]{0,62})\.)?([a-z_][a-z0-9_]*)$`)

// longest leaves room for _fence in the 63 bytes of an identifier, of which
// PostgreSQL would drop the rest.
const longest = 63 - len("_fence")

func parseTable(table string) (names, error) {
	if table == "" {
		table = defaultTable
	}
	parts := tablePattern.FindStringSubmatch(table)
	if parts == nil {
		return names{}, fmt.Errorf("%q is not a name of lower-case letters, digits and underscores", table)
	}
	schema, name := parts[1], parts[2]
	if len(name) > longest {
		return names{}, fmt.Errorf("%q is longer than %d letters", name, longest)
	}
	if schema != "" {
		schema = `"` + schema + `".`
	}
	return names{
		name:     name,
		table:    schema + `"` + name + `"`,
		sequence: schema + `"` + name + `_fence"`,
		index:    schema + `"` + name + `_due"`,
	}, nil
}

// fill replaces what the texts of statements name in braces.
func (n names) fill(sql string) string {
	parts := strings.NewReplacer("{columns}", columns, "{durable}", durable, "{held}", held, "{due}", due)
	return strings.NewReplacer(
		"{table}", n.table, "{sequence}", n.sequence, "{index}", `"`+n.name+`_due"`,
		"{version}", strconv.Itoa(recordVersion), "{batch}", strconv.Itoa(sweepBatch),
	).Replace(parts.Replace(sql))
}

const schemaSQL = `CREATE TABLE IF NOT EXISTS {table} (
	id bytea PRIMARY KEY,
	version smallint NOT NULL,
	fingerprint bytea NOT NULL,
	token bytea NOT NULL,
	fence bigint NOT NULL,
	taken_over boolean NOT NULL,
	claimed_at timestamptz NOT NULL,
	lease_until timestamptz NOT NULL,
	keep_until timestamptz NOT NULL,
	result_until timestamptz, -- NULL until completed
	result bytea              -- NULL from result_until on
);
CREATE SEQUENCE IF NOT EXISTS {sequence} OWNED BY {table}.fence;
CREATE INDEX IF NOT EXISTS {index} ON {table} ({due});
`

// Schema is the SQL that makes the table, its sequence and its index where they
// are missing, for those who migrate by tools of their own. An empty table means
// idempotency_keys. Whoever uses a [Store] needs SELECT, INSERT, UPDATE and
// DELETE on the table and USAGE on the sequence, which is the table's name with
// _fence.
func Schema(table string) (string, error) {
	name, err := parseTable(table)
	if err != nil {
		return "", fmt.Errorf("resilientpg: Schema: %w", err)
	}
	return name.fill(schemaSQL), nil
}

// Migrate executes [Schema] in one transaction where something of it is missing,
// for which it needs the right to create. It may run in many processes at once.
func (s *Store) Migrate(ctx context.Context) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		// IF NOT EXISTS looks and then creates; two that look at once would both create.
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1::bigint)`, s.name.lock()); err != nil {
			return err
		}
		var there bool // then the index is not asked for: CREATE INDEX would wait for all who write
		err := tx.QueryRow(ctx, `SELECT to_regclass($1::text) IS NOT NULL AND to_regclass($2::text) IS NOT NULL
			AND to_regclass($3::text) IS NOT NULL`, s.name.table, s.name.sequence, s.name.index).Scan(&there)
		if err != nil || there {
			return err
		}
		_, err = tx.Exec(ctx, s.name.fill(schemaSQL))
		return err
	})
	if err != nil {
		return fmt.Errorf("resilientpg: migrate: %w", err)
	}
	return nil
}

// lock is the advisory lock of making the table.
func (n names) lock() int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte("resilientpg " + n.table))
	return int64(h.Sum64())
}
