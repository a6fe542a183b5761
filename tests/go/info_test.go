package garden_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"code.cloudfoundry.org/garden"
)

func TestInfo(t *testing.T) {
	behaviour(t, "a fresh container is active, without events and processes", func(t *testing.T) {
		info, err := create(t, spec(t)).Info()
		must(t, err)
		equal(t, "state", info.State, "active")
		equal(t, "events", len(info.Events), 0)
		equal(t, "processes", len(info.ProcessIDs), 0)
		if info.ContainerPath == "" {
			t.Fatal("no container path")
		}
	})
	behaviour(t, "it names the processes that run and no others", func(t *testing.T) {
		container := create(t, spec(t))
		ended := shell("true")
		ended.ID = "ended"
		wait(t, start(t, container, ended, garden.ProcessIO{}))
		for _, id := range []string{"one", "two"} {
			asked := shell("sleep 1000")
			asked.ID = id
			start(t, container, asked, garden.ProcessIO{})
		}
		info, err := container.Info()
		must(t, err)
		equal(t, "processes", strings.Join(slices.Sorted(slices.Values(info.ProcessIDs)), " "), "one two")
	})
	behaviour(t, "it has the properties", func(t *testing.T) {
		asked := spec(t)
		asked.Properties = garden.Properties{"a": "1", "b": ""}
		info, err := create(t, asked).Info()
		must(t, err)
		if !maps.Equal(info.Properties, asked.Properties) {
			t.Fatalf("%v", info.Properties)
		}
	})
	behaviour(t, "bulk info has every container that was asked for, and for an unknown one an error", func(t *testing.T) {
		one, two, unknown := create(t, spec(t)), create(t, spec(t)), unique("unknown")
		must(t, one.SetProperty("which", "one"))
		infos, err := gard.BulkInfo([]string{one.Handle(), unknown, two.Handle()})
		must(t, err)
		equal(t, "entries", len(infos), 3)
		equal(t, "property", infos[one.Handle()].Info.Properties["which"], "one")
		for _, handle := range []string{one.Handle(), two.Handle()} {
			if entry := infos[handle]; entry.Err != nil || entry.Info.State != "active" {
				t.Fatalf("%+v", entry)
			}
		}
		entry := infos[unknown]
		if entry.Err == nil {
			t.Fatal("no error for the unknown handle")
		}
		var notFound garden.ContainerNotFoundError
		if !errors.As(entry.Err.Err, &notFound) {
			t.Fatalf("%T %v", entry.Err.Err, entry.Err)
		}
		equal(t, "handle", notFound.Handle, unknown)
	})
	behaviour(t, "bulk info of nothing is nothing", func(t *testing.T) {
		infos, err := gard.BulkInfo(nil)
		must(t, err)
		equal(t, "entries", len(infos), 0)
	})
}

func TestProperties(t *testing.T) {
	behaviour(t, "a property can be set, read, changed and removed", func(t *testing.T) {
		container := create(t, spec(t))
		must(t, container.SetProperty("key", "value"))
		value, err := container.Property("key")
		must(t, err)
		equal(t, "value", value, "value")
		must(t, container.SetProperty("key", "other"))
		properties, err := container.Properties()
		must(t, err)
		equal(t, "properties", len(properties), 1)
		equal(t, "value", properties["key"], "other")
		must(t, container.RemoveProperty("key"))
		_, err = container.Property("key")
		refused(t, err, "property does not exist: key")
	})
	behaviour(t, "removing a property that is not there succeeds", func(t *testing.T) {
		must(t, create(t, spec(t)).RemoveProperty("never-set"))
	})
	behaviour(t, "a container without properties has an empty map of them", func(t *testing.T) {
		properties, err := create(t, spec(t)).Properties()
		must(t, err)
		if properties == nil || len(properties) != 0 {
			t.Fatalf("%v", properties)
		}
	})
	behaviour(t, "values may be empty, long and of any characters", func(t *testing.T) {
		container := create(t, spec(t))
		for key, value := range map[string]string{
			"empty": "", "long": strings.Repeat("v", mebibyte/2), "lines": "a\nb\r\n\x00\t\"\\", "unicode": "ünï ✓ 𝄞",
			"concourse:exit-status": "0", "dots.and-dashes_": "x", "json": `{"a":[1,2]}`,
		} {
			must(t, container.SetProperty(key, value))
			seen, err := container.Property(key)
			must(t, err)
			if seen != value {
				t.Fatalf("%s: %.40q of %d bytes", key, seen, len(seen))
			}
		}
	})
	behaviour(t, "properties beyond what is kept are refused with the limit, and the others stay", func(t *testing.T) {
		container := create(t, spec(t))
		must(t, container.SetProperty("key", "value"))
		refused(t, container.SetProperty("huge", strings.Repeat("v", 4*mebibyte)), "limit")
		properties, err := container.Properties()
		must(t, err)
		equal(t, "properties", len(properties), 1)
	})
	behaviour(t, "properties given at create may have keys of any characters", func(t *testing.T) {
		asked := spec(t)
		asked.Properties = garden.Properties{"a/b": "slash", "a?b#c%d": "signs", "": "empty key", "ü": "unicode"}
		properties, err := create(t, asked).Properties()
		must(t, err)
		if !maps.Equal(properties, asked.Properties) {
			t.Fatalf("%v", properties)
		}
	})
	behaviour(t, "clients that set different properties at the same time lose none", func(t *testing.T) {
		container := create(t, spec(t))
		for _, err := range parallel(30, func(i int) error {
			return container.SetProperty("key-"+strings.Repeat("x", i), "set")
		}) {
			must(t, err)
		}
		properties, err := container.Properties()
		must(t, err)
		equal(t, "properties", len(properties), 30)
	})
	behaviour(t, "a list by properties has the containers that have all of them", func(t *testing.T) {
		mark := unique("mark")
		handles := map[string]string{}
		for name, properties := range map[string]garden.Properties{
			"both": {mark: "yes", "kind": "x"}, "one": {mark: "yes", "kind": "y"}, "other": {mark: "no", "kind": "x"},
		} {
			asked := spec(t)
			asked.Properties = properties
			handles[name] = create(t, asked).Handle()
		}
		find := func(filter garden.Properties) string {
			containers, err := gard.Containers(filter)
			must(t, err)
			var found []string
			for name, handle := range handles {
				if slices.ContainsFunc(containers, func(c garden.Container) bool { return c.Handle() == handle }) {
					found = append(found, name)
				}
			}
			slices.Sort(found)
			if _, marked := filter[mark]; marked {
				equal(t, "containers that were not asked for", len(containers)-len(found), 0)
			}
			return strings.Join(found, " ")
		}
		equal(t, "by one", find(garden.Properties{mark: "yes"}), "both one")
		equal(t, "by two", find(garden.Properties{mark: "yes", "kind": "x"}), "both")
		equal(t, "by nothing", find(nil), "both one other")
		equal(t, "by a value that nobody has", find(garden.Properties{mark: "perhaps"}), "")
		equal(t, "by a key that nobody has", find(garden.Properties{mark: "yes", "no-such-key": "x"}), "")
	})
	behaviour(t, "a filter sees a property that was set, changed and removed later", func(t *testing.T) {
		container, key := create(t, spec(t)), unique("key")
		found := func(value string) int {
			containers, err := gard.Containers(garden.Properties{key: value})
			must(t, err)
			return len(containers)
		}
		equal(t, "before", found("a"), 0)
		must(t, container.SetProperty(key, "a"))
		equal(t, "set", found("a"), 1)
		must(t, container.SetProperty(key, "b c&d=e"))
		equal(t, "changed", found("a"), 0)
		equal(t, "changed", found("b c&d=e"), 1)
		must(t, container.RemoveProperty(key))
		equal(t, "removed", found("b c&d=e"), 0)
	})
}
