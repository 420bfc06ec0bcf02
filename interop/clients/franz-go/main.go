// The franz-go client: produce with every codec and acks, groups, time, transactions, admin.
// Speaks the lines that interop/clients/harness.py describes.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"reflect"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const testTimeout = 45 * time.Second

type test struct {
	name string
	run  func(context.Context) error
}

func seed() string {
	if address := os.Getenv("BOOTSTRAP"); address != "" {
		return address
	}
	return "127.0.0.1:9092"
}

func unique(prefix string) string {
	random := make([]byte, 4)
	_, _ = rand.Read(random)
	return prefix + "-" + hex.EncodeToString(random)
}

func client(options ...kgo.Opt) *kgo.Client {
	made, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(seed())}, options...)...)
	if err != nil {
		panic(err)
	}
	return made
}

func same(found, expected any, what string) error {
	if reflect.DeepEqual(found, expected) {
		return nil
	}
	return fmt.Errorf("%s: found %.200v, expected %.200v", what, found, expected)
}

func newTopic(ctx context.Context, prefix string, partitions int32, configs map[string]*string) (string, error) {
	made := client()
	defer made.Close()
	topic := unique(prefix)
	answer, err := kadm.NewClient(made).CreateTopic(ctx, partitions, 1, configs, topic)
	if err != nil {
		return topic, err
	}
	return topic, answer.Err
}

// read polls until count records came or the context ends.
func read(ctx context.Context, from *kgo.Client, count int) ([]*kgo.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var records []*kgo.Record
	for len(records) < count {
		fetches := from.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return records, fmt.Errorf("%d of %d records: %w", len(records), count, err)
		}
		records = append(records, fetches.Records()...)
	}
	return records, nil
}

func readTopic(ctx context.Context, topic string, count int, options ...kgo.Opt) ([]*kgo.Record, error) {
	options = append(options, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	from := client(options...)
	defer from.Close()
	return read(ctx, from, count)
}

func values(records []*kgo.Record) []string {
	found := make([]string, 0, len(records))
	for _, record := range records {
		found = append(found, string(record.Value))
	}
	return found
}

func describe(record *kgo.Record) string {
	headers := ""
	for _, header := range record.Headers {
		headers += header.Key + "=" + string(header.Value) + ";"
	}
	return fmt.Sprintf("%q %v %q %v %s %d", record.Key, record.Key == nil, record.Value, record.Value == nil, headers, record.Timestamp.UnixMilli())
}

func produce(codec kgo.CompressionCodec, acks kgo.Acks, idempotent bool) func(context.Context) error {
	return func(ctx context.Context) error {
		topic, err := newTopic(ctx, "produce", 1, nil)
		if err != nil {
			return err
		}
		options := []kgo.Opt{kgo.ProducerBatchCompression(codec), kgo.RequiredAcks(acks), kgo.ProducerLinger(2 * time.Millisecond)}
		if !idempotent {
			options = append(options, kgo.DisableIdempotentWrite())
		}
		to := client(options...)
		now := time.Now().Truncate(time.Millisecond)
		var sent []string
		for i := 0; i < 300; i++ {
			record := &kgo.Record{Topic: topic, Value: []byte(strings.Repeat(fmt.Sprintf("value-%d-", i), 1+i%30))}
			record.Timestamp = now.Add(time.Duration(i) * time.Millisecond)
			if i%7 != 0 {
				record.Key = []byte(fmt.Sprintf("key-%d", i%10))
			}
			if i%11 == 5 {
				record.Value = nil
			}
			if i%2 == 1 {
				record.Headers = []kgo.RecordHeader{{Key: "number", Value: []byte(strconv.Itoa(i))}, {Key: "empty", Value: []byte{}}}
			}
			sent = append(sent, describe(record))
			to.Produce(ctx, record, nil)
		}
		err = to.Flush(ctx)
		to.Close()
		if err != nil {
			return err
		}
		records, err := readTopic(ctx, topic, 300)
		if err != nil {
			return err
		}
		for i, record := range records {
			if record.Offset != int64(i) || describe(record) != sent[i] {
				return fmt.Errorf("offset %d: found %.200s, expected %.200s", record.Offset, describe(record), sent[i])
			}
		}
		return nil
	}
}

func fill(ctx context.Context, topic string, first, last int, spread int32) error {
	to := client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer to.Close()
	for i := first; i < last; i++ {
		to.Produce(ctx, &kgo.Record{Topic: topic, Partition: int32(i) % spread, Value: []byte(strconv.Itoa(i))}, nil)
	}
	return to.Flush(ctx)
}

func autoCreate(ctx context.Context) error {
	topic := unique("auto")
	to := client(kgo.AllowAutoTopicCreation())
	defer to.Close()
	if err := to.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("first")}).FirstErr(); err != nil {
		return err
	}
	records, err := readTopic(ctx, topic, 1)
	if err != nil {
		return err
	}
	return same(values(records), []string{"first"}, "values")
}

func seekByTime(ctx context.Context) error {
	topic, err := newTopic(ctx, "time", 1, nil)
	if err != nil {
		return err
	}
	now := time.Now().Truncate(time.Millisecond)
	to := client()
	defer to.Close()
	for i := 0; i < 100; i++ {
		record := &kgo.Record{Topic: topic, Value: []byte(strconv.Itoa(i)), Timestamp: now.Add(time.Duration(i) * 10 * time.Millisecond)}
		if err := to.ProduceSync(ctx, record).FirstErr(); err != nil {
			return err
		}
	}
	admin := kadm.NewClient(to)
	for asked, offset := range map[int64]int64{0: 0, 495: 50, 500: 50, 501: 51, 990: 99} {
		found, err := admin.ListOffsetsAfterMilli(ctx, now.UnixMilli()+asked, topic)
		if err != nil {
			return err
		}
		if err := same(found[topic][0].Offset, offset, fmt.Sprintf("offset at %d ms", asked)); err != nil {
			return err
		}
	}
	from := client(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AfterMilli(now.UnixMilli()+700)))
	defer from.Close()
	records, err := read(ctx, from, 30)
	if err != nil {
		return err
	}
	return same(string(records[0].Value), "70", "first value from there")
}

// member is a group member in its own goroutine: polls, commits after every poll, notes what it saw.
type member struct {
	client *kgo.Client
	cancel context.CancelFunc
	ended  chan struct{}
	counts chan int
	seen   []int
	total  int
	err    error
}

func join(ctx context.Context, topic, group string) *member {
	ctx, cancel := context.WithCancel(ctx)
	from := client(kgo.ConsumeTopics(topic), kgo.ConsumerGroup(group), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.HeartbeatInterval(500*time.Millisecond), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	made := &member{client: from, cancel: cancel, ended: make(chan struct{}), counts: make(chan int, 100000)}
	go func() {
		defer close(made.ended)
		for ctx.Err() == nil {
			fetches := from.PollFetches(ctx)
			for _, record := range fetches.Records() {
				number, _ := strconv.Atoi(string(record.Value))
				made.seen = append(made.seen, number)
				made.counts <- 1
			}
			if fetches.NumRecords() > 0 {
				if err := from.CommitUncommittedOffsets(context.Background()); err != nil {
					made.err = err
				}
			}
			from.AllowRebalance()
		}
		from.Close()
	}()
	return made
}

func (m *member) count() int {
	for {
		select {
		case <-m.counts:
			m.total++
		default:
			return m.total
		}
	}
}

func (m *member) stop() ([]int, error) {
	m.cancel()
	<-m.ended
	return m.seen, m.err
}

func eventually(condition func() bool, what string) error {
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("not within 30 s: %s", what)
		}
	}
	return nil
}

func numbers(first, last int) []int {
	var found []int
	for i := first; i < last; i++ {
		found = append(found, i)
	}
	return found
}

func membersOf(ctx context.Context, admin *kadm.Client, group string) int {
	found, err := admin.DescribeGroups(ctx, group)
	if err != nil || found[group].State != "Stable" {
		return -1
	}
	return len(found[group].Members)
}

func groups(ctx context.Context) error {
	topic, err := newTopic(ctx, "group", 4, nil)
	if err != nil {
		return err
	}
	group := unique("group")
	plain := client()
	defer plain.Close()
	admin := kadm.NewClient(plain)
	steps := []func() error{func() error { return fill(ctx, topic, 0, 100, 4) }}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	one := join(ctx, topic, group)
	if err := eventually(func() bool { return one.count() >= 100 }, "the first member to read 100 records"); err != nil {
		return err
	}
	two := join(ctx, topic, group)
	if err := eventually(func() bool { return membersOf(ctx, admin, group) == 2 }, "a stable group of two"); err != nil {
		return err
	}
	if err := fill(ctx, topic, 100, 200, 4); err != nil {
		return err
	}
	if err := eventually(func() bool { return one.count()+two.count() >= 200 }, "both members to read 200 records"); err != nil {
		return err
	}
	if two.count() == 0 {
		return fmt.Errorf("the second member read nothing")
	}
	seen, err := two.stop()
	if err != nil {
		return err
	}
	if err := fill(ctx, topic, 200, 300, 4); err != nil {
		return err
	}
	if err := eventually(func() bool { return one.count()+len(seen) >= 300 }, "the first member to read all again"); err != nil {
		return err
	}
	rest, err := one.stop()
	if err != nil {
		return err
	}
	all := append(rest, seen...)
	sort.Ints(all)
	if err := same(all, numbers(0, 300), "each record seen once"); err != nil {
		return err
	}
	if err := fill(ctx, topic, 300, 350, 4); err != nil {
		return err
	}
	again := join(ctx, topic, group)
	if err := eventually(func() bool { return again.count() >= 50 }, "the restarted member to go on"); err != nil {
		return err
	}
	last, err := again.stop()
	sort.Ints(last)
	if err != nil {
		return err
	}
	return same(last, numbers(300, 350), "records after the restart")
}

func transactions(ctx context.Context) error {
	topic, err := newTopic(ctx, "transaction", 2, nil)
	if err != nil {
		return err
	}
	to := client(kgo.TransactionalID(unique("tx")), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer to.Close()
	for _, name := range []string{"a", "b", "c"} {
		if err := to.BeginTransaction(); err != nil {
			return err
		}
		for i := 0; i < 10; i++ {
			to.Produce(ctx, &kgo.Record{Topic: topic, Partition: int32(i % 2), Value: []byte(name)}, nil)
		}
		if err := to.Flush(ctx); err != nil {
			return err
		}
		if err := to.EndTransaction(ctx, kgo.TransactionEndTry(name != "b")); err != nil {
			return err
		}
	}
	records, err := readTopic(ctx, topic, 20, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		return err
	}
	found := values(records)
	sort.Strings(found)
	if err := same(strings.Join(found, ""), "aaaaaaaaaacccccccccc", "read_committed"); err != nil {
		return err
	}
	records, err = readTopic(ctx, topic, 30)
	if err != nil {
		return err
	}
	return same(len(records), 30, "read_uncommitted")
}

func transform(ctx context.Context) error {
	source, err := newTopic(ctx, "source", 1, nil)
	if err != nil {
		return err
	}
	sink, err := newTopic(ctx, "sink", 1, nil)
	if err != nil {
		return err
	}
	if err := fill(ctx, source, 0, 20, 1); err != nil {
		return err
	}
	group := unique("group")
	session, err := kgo.NewGroupTransactSession(kgo.SeedBrokers(seed()), kgo.ConsumerGroup(group), kgo.ConsumeTopics(source),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.TransactionalID(unique("tx")),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.RequireStableFetchOffsets())
	if err != nil {
		return err
	}
	defer session.Close()
	for done := 0; done < 20; {
		fetches := session.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		if err := session.Begin(); err != nil {
			return err
		}
		fetches.EachRecord(func(record *kgo.Record) {
			done++
			session.Produce(ctx, &kgo.Record{Topic: sink, Value: append([]byte("done-"), record.Value...)}, nil)
		})
		if committed, err := session.End(ctx, kgo.TryCommit); err != nil || !committed {
			return fmt.Errorf("committed %v: %v", committed, err)
		}
	}
	records, err := readTopic(ctx, sink, 20, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		return err
	}
	if err := same(string(records[19].Value), "done-19", "last value"); err != nil {
		return err
	}
	offsets, err := kadm.NewClient(session.Client()).FetchOffsets(ctx, group)
	if err != nil {
		return err
	}
	return same(offsets[source][0].At, int64(20), "committed offset")
}

func admin(ctx context.Context) error {
	made := client()
	defer made.Close()
	admin := kadm.NewClient(made)
	retention := "100000"
	topic, err := newTopic(ctx, "admin", 3, map[string]*string{"retention.ms": &retention})
	if err != nil {
		return err
	}
	if _, err := admin.CreatePartitions(ctx, 2, topic); err != nil {
		return err
	}
	if err := eventually(func() bool {
		found, err := admin.ListTopics(ctx, topic)
		return err == nil && len(found[topic].Partitions) == 5
	}, "five partitions"); err != nil {
		return err
	}
	configs, err := admin.DescribeTopicConfigs(ctx, topic)
	if err != nil {
		return err
	}
	for _, config := range configs[0].Configs {
		if config.Key == "retention.ms" && config.MaybeValue() != retention {
			return fmt.Errorf("retention.ms is %s", config.MaybeValue())
		}
	}
	size := "54321"
	if _, err := admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: &size}}, topic); err != nil {
		return err
	}
	if err := fill(ctx, topic, 0, 10, 1); err != nil {
		return err
	}
	var cut kadm.Offsets
	cut.Add(kadm.Offset{Topic: topic, Partition: 0, At: 4})
	if _, err := admin.DeleteRecords(ctx, cut); err != nil {
		return err
	}
	starts, err := admin.ListStartOffsets(ctx, topic)
	if err != nil {
		return err
	}
	if err := same(starts[topic][0].Offset, int64(4), "first offset after DeleteRecords"); err != nil {
		return err
	}
	group := unique("group")
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: topic, Partition: 0, At: 7, Metadata: "a note"})
	if err := admin.CommitAllOffsets(ctx, group, offsets); err != nil {
		return err
	}
	lag, err := admin.Lag(ctx, group)
	if err != nil {
		return err
	}
	if err := same(lag[group].Lag[topic][0].Lag, int64(3), "lag"); err != nil {
		return err
	}
	if _, err := admin.DeleteGroups(ctx, group); err != nil {
		return err
	}
	if _, err := admin.DescribeAllLogDirs(ctx, nil); err != nil {
		return err
	}
	_, err = admin.DeleteTopics(ctx, topic)
	return err
}

func all() []test {
	codecs := []struct {
		name  string
		codec kgo.CompressionCodec
	}{
		{"none", kgo.NoCompression()}, {"gzip", kgo.GzipCompression()}, {"snappy", kgo.SnappyCompression()},
		{"lz4", kgo.Lz4Compression()}, {"zstd", kgo.ZstdCompression()},
	}
	var tests []test
	for _, each := range codecs {
		tests = append(tests,
			test{"produce-" + each.name + "-acks-0", produce(each.codec, kgo.NoAck(), false)},
			test{"produce-" + each.name + "-acks-1", produce(each.codec, kgo.LeaderAck(), false)},
			test{"produce-" + each.name + "-acks-all", produce(each.codec, kgo.AllISRAcks(), true)})
	}
	return append(tests, test{"topic-created-by-produce", autoCreate}, test{"seek-by-time", seekByTime},
		test{"group-rebalance-and-restart", groups}, test{"transaction-commit-and-abort", transactions},
		test{"transaction-consume-transform-produce", transform}, test{"admin", admin})
}

func main() {
	chosen := all()
	if len(os.Args) > 1 {
		var some []test
		for _, each := range chosen {
			for _, name := range os.Args[1:] {
				if each.name == name {
					some = append(some, each)
				}
			}
		}
		chosen = some
	}
	fmt.Print("PLAN")
	for _, each := range chosen {
		fmt.Print(" ", each.name)
	}
	fmt.Println()
	failed := false
	for _, each := range chosen {
		ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
		if err := each.run(ctx); err != nil {
			failed = true
			fmt.Println("FAIL", each.name, strings.Join(strings.Fields(err.Error()), " "))
		} else {
			fmt.Println("PASS", each.name)
		}
		cancel()
	}
	if failed {
		os.Exit(1)
	}
}
