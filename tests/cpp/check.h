// A test harness in one header: TEST(name) { CHECK(...); }, and main() in exactly one file through
// GRADCORE_TEST_MAIN.
#pragma once
#include <cmath>
#include <cstdio>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

namespace check {

struct Test {
  const char* name;
  void (*body)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}
inline int& failures() {
  static int count = 0;
  return count;
}
struct Register {
  Register(const char* name, void (*body)()) { tests().push_back({name, body}); }
};

inline void report(const char* file, int line, const std::string& what) {
  std::printf("%s:%d: %s\n", file, line, what.c_str());
  failures()++;
}

template <class A, class B>
void equal(const char* file, int line, const char* text, const A& actual, const B& expected) {
  if (actual == expected) return;
  std::ostringstream out;
  out.precision(17);
  out << text << ": expected " << expected << ", got " << actual;
  report(file, line, out.str());
}

inline void near(const char* file, int line, const char* text, double actual, double expected,
                 double tolerance) {
  if (std::abs(actual - expected) <= tolerance) return;  // false for NaN
  char out[400];
  std::snprintf(out, sizeof out, "%s: expected %.17g within %.3g, got %.17g", text, expected,
                tolerance, actual);
  report(file, line, out);
}

// Runs the tests whose names contain the argument, or all; exits 1 on failure and on running none.
inline int run(int argc, char** argv) {
  int passed = 0, failed = 0;
  for (const Test& test : tests()) {
    if (argc > 1 && !std::strstr(test.name, argv[1])) continue;
    const int before = failures();
    test.body();
    const bool good = failures() == before;
    (good ? passed : failed)++;
    if (!good) std::printf("FAILED %s\n", test.name);
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed > 0 || passed == 0;
}

}  // namespace check

#define TEST(name)                                                  \
  static void test_##name();                                        \
  static const check::Register register_##name(#name, test_##name); \
  static void test_##name()
#define CHECK(condition) \
  ((condition) ? void() : check::report(__FILE__, __LINE__, "not true: " #condition))
#define CHECK_EQUAL(actual, expected) check::equal(__FILE__, __LINE__, #actual, actual, expected)
#define CHECK_NEAR(actual, expected, tolerance) \
  check::near(__FILE__, __LINE__, #actual, actual, expected, tolerance)
#define CHECK_CONTAINS(text, part) \
  (std::strstr(text, part)         \
       ? void()                    \
       : check::report(__FILE__, __LINE__, std::string("no '") + (part) + "' in: " + (text)))
#define GRADCORE_TEST_MAIN \
  int main(int argc, char** argv) { return check::run(argc, argv); }
