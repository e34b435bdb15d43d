package wire

// AppendFloat is how numbers are written.
var AppendFloat = appendFloat
