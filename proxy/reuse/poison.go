//go:build poison

package reuse

import (
	"reflect"
	"unsafe"
)

// poisoned: values are spoilt when they are put back.
const poisoned = true

const (
	spoiltOctet = 0xdb
	spoiltText  = "\xdb read after it was put back \xdb"
	depth       = 4 // of slices in slices
)

// spoil overwrites the value that v points to, and all of the capacity of its slices. What
// its pointers lead to is others' and stays as it is: only the way there is lost.
func spoil(v any) { overwrite(reflect.ValueOf(v).Elem(), depth) }

func overwrite(v reflect.Value, depth int) {
	v = reflect.NewAt(v.Type(), unsafe.Pointer(v.UnsafeAddr())).Elem() // unexported fields too
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(-0x5b)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		v.SetUint(spoiltOctet)
	case reflect.Float32, reflect.Float64:
		v.SetFloat(-spoiltOctet)
	case reflect.String:
		v.SetString(spoiltText)
	case reflect.Array:
		for i := range v.Len() {
			overwrite(v.Index(i), depth)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			overwrite(v.Field(i), depth)
		}
	case reflect.Slice:
		if depth == 0 {
			return
		}
		all := v.Slice(0, v.Cap())
		if octets, ok := all.Interface().([]byte); ok {
			for i := range octets {
				octets[i] = spoiltOctet
			}
			return
		}
		for i := range all.Len() {
			overwrite(all.Index(i), depth-1)
		}
	default: // pointers, maps, functions, interfaces, channels: whoever follows one falls
		v.SetZero()
	}
}
