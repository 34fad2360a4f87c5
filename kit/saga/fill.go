package saga

import "reflect"

// keyOf returns the result of a function of a definition, or "" if it panics.
func keyOf(f func() string) (key string) {
	defer func() {
		if recover() != nil {
			key = ""
		}
	}()
	return f()
}

// filled returns a value with a non-zero value in each exported field. Check calls a key function with it: an empty key shows that the function uses none.
func filled(t reflect.Type) reflect.Value { return fill(t, 0) }

func fill(t reflect.Type, depth int) reflect.Value {
	const deepest = 8 // of types that contain themselves
	v := reflect.New(t).Elem()
	if depth > deepest {
		return v
	}
	switch t.Kind() { //nolint:exhaustive // of the others the zero value will do
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(1)
	case reflect.Float32, reflect.Float64:
		v.SetFloat(1)
	case reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
		v.Elem().Set(fill(t.Elem(), depth+1))
	case reflect.Slice:
		v.Set(reflect.Append(v, fill(t.Elem(), depth+1)))
	case reflect.Array:
		for i := range t.Len() {
			v.Index(i).Set(fill(t.Elem(), depth+1))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(t))
		v.SetMapIndex(fill(t.Key(), depth+1), fill(t.Elem(), depth+1))
	case reflect.Struct:
		for i := range t.NumField() {
			if v.Field(i).CanSet() {
				v.Field(i).Set(fill(t.Field(i).Type, depth+1))
			}
		}
	}
	return v
}
