package main

import (
	"encoding/hex"
	"fmt"
	"math"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// sights turn linear red, green and blue into what is seen without one kind of
// cone: the matrices of Machado, Oliveira and Fernandes, 2009, for severity 1.
var sights = map[string][3][3]float64{
	"all three cones": {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}},
	"protanopia":      {{0.152286, 1.052583, -0.204868}, {0.114503, 0.786281, 0.099216}, {-0.003882, -0.048116, 1.051998}},
	"deuteranopia":    {{0.367322, 0.860646, -0.227968}, {0.280085, 0.672501, 0.047413}, {-0.011820, 0.042940, 0.968881}},
	"tritanopia":      {{1.255528, -0.076749, -0.178779}, {-0.078411, 0.930809, 0.147602}, {0.004733, 0.691367, 0.303900}},
}

func TestThePartsOfABarCanBeToldApartByTheColourBlind(t *testing.T) {
	colours := regexp.MustCompile(`\.b\d\{fill:#(\w+)\}`).FindAllStringSubmatch(barStyle, -1)
	require.Len(t, colours, 5)
	for sight, seen := range sights {
		for i, a := range colours {
			for _, b := range colours[:i] {
				x, y := lab(t, a[1], seen), lab(t, b[1], seen)
				apart := math.Hypot(math.Hypot(x[0]-y[0], x[1]-y[1]), x[2]-y[2])
				require.Greater(t, apart, 30., "%s and %s, %s", a[1], b[1], sight)
			}
		}
	}
}

// lab is a colour in CIELAB, where distances are those that are seen.
func lab(t *testing.T, colour string, seen [3][3]float64) [3]float64 {
	if len(colour) == 3 {
		colour = strings.Join([]string{colour[:1], colour[:1], colour[1:2], colour[1:2], colour[2:], colour[2:]}, "")
	}
	bytes, err := hex.DecodeString(colour)
	require.NoError(t, err)
	var linear [3]float64
	for i, b := range bytes {
		c := float64(b) / 255
		linear[i] = c / 12.92
		if c > 0.04045 {
			linear[i] = math.Pow((c+0.055)/1.055, 2.4)
		}
	}
	rgb := times3(seen, linear)
	for i := range rgb {
		rgb[i] = min(1, max(0, rgb[i]))
	}
	xyz := times3([3][3]float64{{0.4339, 0.3763, 0.1899}, {0.2126, 0.7152, 0.0722}, {0.0177, 0.1095, 0.8728}}, rgb) // to D65 white
	for i, v := range xyz {
		xyz[i] = 7.787*v + 16./116
		if v > 0.008856 {
			xyz[i] = math.Cbrt(v)
		}
	}
	return [3]float64{116*xyz[1] - 16, 500 * (xyz[0] - xyz[1]), 200 * (xyz[1] - xyz[2])}
}

func times3(m [3][3]float64, v [3]float64) (w [3]float64) {
	for i, row := range m {
		w[i] = row[0]*v[0] + row[1]*v[1] + row[2]*v[2]
	}
	return w
}

func TestAPictureHasRoomForItsWords(t *testing.T) {
	r := &Report{Chargings: make([][]Tally, len(chargings))}
	picture := r.fates()
	for text := range strings.SplitSeq(picture, `<g transform="translate(`) {
		var x, y int
		if _, err := fmt.Sscanf(text, "%d %d)", &x, &y); err != nil {
			continue
		}
		_, title, _ := strings.Cut(text, `y="-12">`)
		title, _, _ = strings.Cut(title, "<")
		require.LessOrEqual(t, len(title)*7, chartStepX, title) // bold, 12 pixels high
	}
}
